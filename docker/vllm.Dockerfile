# vLLM's own image, for the evaluation's engine vllm, checked. Built by: make container ENGINE=vllm
# BASE_IMAGE comes from docker/versions.env. The project's code is not in the image: a run mounts its own snapshot.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

# The sandbox of the model's own code. Debian's packages and Ubuntu's are not kept in old versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/*
COPY docker/requirements-sandbox.txt /opt/nemo-sft-repro/docker/
COPY scripts/lib.sh scripts/slurm.sh scripts/sandbox.sh /opt/nemo-sft-repro/scripts/
ENV SANDBOX_VENV=/opt/nemo-sft-repro/sandbox
RUN python3 -m venv /opt/nemo-sft-repro/venv \
    && VENV=/opt/nemo-sft-repro/venv PIP_NO_CACHE_DIR=1 /opt/nemo-sft-repro/scripts/sandbox.sh

COPY docker/smoke.py /opt/nemo-sft-repro/docker/
RUN python3 /opt/nemo-sft-repro/docker/smoke.py vllm >/opt/nemo-sft-repro/VERSIONS \
    && cat /opt/nemo-sft-repro/VERSIONS
# The image starts a server; a run starts a script.
ENTRYPOINT []
