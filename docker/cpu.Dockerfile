# Engine automodel without a GPU: the pins of docker/requirements.txt on a Debian. Built by: make container ENGINE=cpu
# BASE_IMAGE comes from docker/versions.env. The project's code is not in the image: a run mounts its own snapshot.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

# git and make, so that the whole repository works in here, too; bubblewrap for the model's own code. Debian keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap ca-certificates git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY docker/requirements.txt /opt/nemo-sft-repro/docker/
COPY scripts/lib.sh scripts/slurm.sh scripts/setup.sh /opt/nemo-sft-repro/scripts/
ENV VENV=/opt/venv
RUN PIP_NO_CACHE_DIR=1 /opt/nemo-sft-repro/scripts/setup.sh

COPY docker/smoke.py /opt/nemo-sft-repro/docker/
RUN /opt/venv/bin/python /opt/nemo-sft-repro/docker/smoke.py cpu >/opt/nemo-sft-repro/VERSIONS \
    && cat /opt/nemo-sft-repro/VERSIONS
