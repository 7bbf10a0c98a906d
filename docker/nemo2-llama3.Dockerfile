# Engine nemo2 for the Llama 3 notebooks: their NeMo 2.0 image, checked. Built by: make container ENGINE=nemo2-llama3
# BASE_IMAGE comes from docker/versions.env. The project's code is not in the image: a run mounts its own snapshot.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

COPY docker/smoke.py /opt/nemo-sft-repro/docker/
RUN python /opt/nemo-sft-repro/docker/smoke.py nemo2 >/opt/nemo-sft-repro/VERSIONS \
    && cat /opt/nemo-sft-repro/VERSIONS
