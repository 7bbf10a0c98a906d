# Engine nemo-rl: NVIDIA's image, with its code in /opt/nemo-rl, checked. Built by: make container ENGINE=nemo-rl
# BASE_IMAGE comes from docker/versions.env. The project's code is not in the image: a run mounts its own snapshot.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

COPY docker/smoke.py /opt/nemo-sft-repro/docker/
# Also that the actors' environments are there: upstream's build ends well without them.
RUN PYTHONPATH=/opt/nemo-rl python /opt/nemo-sft-repro/docker/smoke.py nemo-rl >/opt/nemo-sft-repro/VERSIONS \
    && cat /opt/nemo-sft-repro/VERSIONS
