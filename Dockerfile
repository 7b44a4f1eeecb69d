# No cache mounts: some platforms that build this file refuse them. The layers do the caching.

# The bases are named by digest, so that nobody can exchange them unseen; Dependabot renews them.
FROM rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1 AS build
WORKDIR /build

# The dependencies alone, with an empty program: this layer is built anew only when they change.
COPY Cargo.toml Cargo.lock build.rs ./
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --profile dist --locked

# The program. Copied files keep their old times, so cargo must be told that they are newer.
COPY migrations migrations
COPY src src
# The console tells what changed.
COPY CHANGELOG.md ./
# What `--version` tells beside the version; there is no repository here to ask.
ARG MIRRORGATE_COMMIT=
RUN touch build.rs src/lib.rs src/main.rs \
    && MIRRORGATE_COMMIT="$MIRRORGATE_COMMIT" cargo build --profile dist --locked

# What the image adds to its base. Any user may write to /data, and none may remove another's files.
RUN install -D --mode=0755 target/dist/mirrorgate /rootfs/usr/local/bin/mirrorgate \
    && install -d --mode=1777 /rootfs/data

FROM gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f
COPY --from=build /rootfs /
COPY LICENSE THIRD_PARTY.md /usr/share/doc/mirrorgate/
# The store is in /data/mirrorgate, unless DATA_DIR or the platform's volume names another place.
ENV HOST=0.0.0.0 \
    PORT=8080 \
    XDG_DATA_HOME=/data
# The base's own working directory is closed to this user; a file `.env` is looked for in it.
WORKDIR /
USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/mirrorgate", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/mirrorgate"]
