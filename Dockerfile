# syntax=docker/dockerfile:1
# The image of Muster: /manager, /github-webhook-server and, where it is built, /actions-metrics-server, as ARC's image has them.
#
#   docker build -t muster .                                                    builds everything; needs a network
#   docker buildx build --platform linux/amd64,linux/arm64 -t muster .          the same for two architectures, cross-compiled
#   make image-root && docker build --target prebuilt -t muster .               from executables that are built already; needs none
#
# The base has glibc and CA certificates and nothing else: no shell, no package manager. The user is 65532; the root may be read-only.

ARG RUST_VERSION=1.95
ARG DEBIAN=bookworm

FROM --platform=$BUILDPLATFORM rust:${RUST_VERSION}-slim-${DEBIAN} AS build
ARG TARGETARCH
WORKDIR /source
# aws-lc, the TLS library, is C.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake gcc g++ libc6-dev make perl \
      gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-x86-64-linux-gnu libc6-dev-amd64-cross \
 && rm -rf /var/lib/apt/lists/*
COPY . .
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
    CC_x86_64_unknown_linux_gnu=x86_64-linux-gnu-gcc
# The allocator wants to know the largest page that it may meet: some arm64 kernels have 64 KiB.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target,id=target-$TARGETARCH \
    case "$TARGETARCH" in \
      amd64) triple=x86_64-unknown-linux-gnu ;; \
      arm64) triple=aarch64-unknown-linux-gnu; export JEMALLOC_SYS_WITH_LG_PAGE=16 ;; \
      *) echo "there is no image for $TARGETARCH" >&2; exit 1 ;; \
    esac \
 && rustup target add "$triple" \
 && cargo build --release --locked --target "$triple" --workspace --bin manager --bin github-webhook-server --bin actions-metrics-server \
 && mkdir /out \
 && for name in manager github-webhook-server actions-metrics-server; do \
      if [ -x "target/$triple/release/$name" ]; then install -m 0555 "target/$triple/release/$name" /out/; fi; \
    done

# What tools/image-root assembled on this machine.
FROM scratch AS prebuilt
COPY target/image/root/ /
ENV PATH=/ SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/manager"]

FROM gcr.io/distroless/cc-debian12:nonroot AS image
COPY --from=build /out/ /
ENV PATH=/
USER 65532:65532
ENTRYPOINT ["/manager"]
