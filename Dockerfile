# headcount as an image: the service, and nothing else but glibc and the roots that HTTPS needs.
#
#   docker build -t headcount .
#   docker run --rm -p 127.0.0.1:9464:9464 -v "$PWD/headcount.toml:/etc/headcount/headcount.toml:ro" headcount
#
# No init: headcount is a good PID 1. It forwards signals, reaps orphans, and stops its processes in order.
# Only what every builder knows is used, so the old one of docker-compose 1.29 takes it too.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# What headcount_build_info says: docker build --build-arg REVISION="$(git rev-parse --short HEAD)" .
ARG REVISION=unknown
# Line tables stay in the binary: reports name file and line. The state folder is made here because the runtime has no
# shell; a new volume takes its owner.
RUN HEADCOUNT_REVISION="${REVISION}" cargo build --release --locked --bin headcount \
    && mkdir -p /made/state /made/etc \
    && target/release/headcount config --default \
        | sed 's/^listen = "127.0.0.1:9464"$/listen = "0.0.0.0:9464"/' >/made/etc/headcount.toml \
    && target/release/headcount check /made/etc/headcount.toml

FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/release/headcount /usr/local/bin/headcount
COPY --from=build /made/etc/ /etc/headcount/
COPY --from=build --chown=65532:65532 /made/state/ /var/lib/headcount/
# How runs ended: a volume here lets the next run tell.
ENV STATE_DIRECTORY=/var/lib/headcount
USER 65532:65532
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["headcount", "probe", "http://127.0.0.1:9464/readyz"]
ENTRYPOINT ["headcount"]
CMD ["run", "/etc/headcount/headcount.toml"]
