# `unisono serve` in a container. docs/docker.md says how to build it, and how to open it to others with a key.
#
#   docker build -t unisono .                                      members on the CPU
#   docker build -t unisono:cuda --build-arg ACCELERATOR=cuda .    llama.cpp with CUDA
#
# The server binds to 127.0.0.1, as everywhere: outside of the container nobody reaches it before it is told
# `--host 0.0.0.0`, which it refuses without `--api-key-file` (or `--no-keys`).
ARG ACCELERATOR=cpu
ARG CUDA=12.8.1

FROM debian:bookworm-slim AS cpu-build
# The oldest processor that it may run on has AVX2; one that the build's machine alone has is not assumed.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF"

FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS cuda-build
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_CUDA=ON"

FROM debian:bookworm-slim AS cpu-base

FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04 AS cuda-base

# hadolint ignore=DL3006
FROM ${ACCELERATOR}-build AS build
# What the server can do: `transformers` is not among it, because its PyTorch alone takes several gigabytes.
ARG EXTRAS=llamacpp,endpoint,constraints,server
# More for llama.cpp's build, such as -DCMAKE_CUDA_ARCHITECTURES=90
ARG LLAMA_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
COPY tools/llama-lean.cmake tools/
# llama.cpp before the rest, so that a change of unisono does not compile it again
RUN python3 -m venv /opt/unisono \
    && /opt/unisono/bin/pip install "$(grep '^pip==' constraints.txt)" \
    && CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=/src/tools/llama-lean.cmake $CMAKE_ARGS $LLAMA_ARGS" \
        /opt/unisono/bin/pip install -c constraints.txt --build-constraint constraints.txt llama-cpp-python
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/unisono/bin/pip install -c constraints.txt --build-constraint constraints.txt ".[$EXTRAS]"

# hadolint ignore=DL3006
FROM ${ACCELERATOR}-base
LABEL org.opencontainers.image.title="unisono" \
      org.opencontainers.image.description="Several large language models, with different tokenizers, write one text together." \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 unisono \
    && mkdir /cache /ensembles \
    && chown unisono:unisono /cache
COPY --from=build /opt/unisono /opt/unisono
ENV PATH="/opt/unisono/bin:$PATH" \
    UNISONO_CACHE=/cache/unisono \
    HF_HOME=/cache/huggingface \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
# Conversions of weights, self-checks, and models from a hub
VOLUME /cache
# Ensemble files: their folder is mounted here
WORKDIR /ensembles
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["unisono", "serve"]
CMD ["--help"]
