# NVIDIA's image of an engine, checked. Built by: make container ENGINE=automodel, nemo-rl, nemo2 or nemo2-llama3
# BASE_IMAGE comes from docker/versions.env. The project's code is not in the image: a run mounts its own snapshot.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

ARG ENGINE
COPY docker/smoke.py /opt/nemo-sft-repro/docker/
# The image of nemo-rl has its code in /opt/nemo-rl. The others keep the PYTHONPATH that NVIDIA set. nemo2-llama3 is nemo2
# of another version.
RUN if [ "$ENGINE" = nemo-rl ]; then export PYTHONPATH=/opt/nemo-rl; fi \
    && python /opt/nemo-sft-repro/docker/smoke.py "${ENGINE%-llama3}" >/opt/nemo-sft-repro/VERSIONS \
    && cat /opt/nemo-sft-repro/VERSIONS
