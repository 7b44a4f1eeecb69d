//! The table of settings: one row each, read by the command line, the checks and the README test.

/// One setting: an environment variable that is a command-line flag as well.
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What stands for the value in `--help`.
    pub value: &'static str,
    /// The value when nothing is set, in words where it is worked out.
    pub default: &'static str,
    /// What it means, one line.
    pub help: &'static str,
}

impl Setting {
    /// The command-line flag without its dashes: `UPSTREAM_URL` is `upstream-url`.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }
}

const fn row(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, value, default, help }
}

/// All settings, in the order in which a person meets them.
pub const SETTINGS: &[Setting] = &[
    row(
        "UPSTREAM_URL",
        "URL",
        "none: the built-in demo upstream",
        "Base URL of the mirror; with or without /v1, or the full address of a chat; several with commas between",
    ),
    row(
        "UPSTREAMS_FILE",
        "PATH",
        "mirrorgate.toml, if it is there",
        "TOML file with one block [[upstream]] for each of several mirrors, in place of UPSTREAM_URL",
    ),
    row(
        "UPSTREAM_PROTOCOL",
        "NAME",
        "openai",
        "What the mirror speaks: openai (JSON and SSE), web-chat (NDJSON with cookies) or anthropic (Anthropic's Messages API)",
    ),
    row(
        "UPSTREAM_API_KEY",
        "KEY",
        "none",
        "Key for the mirror, sent as a bearer token (anthropic: as x-api-key)",
    ),
    row(
        "UPSTREAM_COOKIE",
        "LINE",
        "none",
        "Cookie header line, as copied from the browser's developer tools",
    ),
    row(
        "UPSTREAM_HEADERS",
        "LINES",
        "none",
        "More headers for the mirror, one `Name: value` a line; {uuid} becomes a new UUID each request",
    ),
    row(
        "UPSTREAM_BODY",
        "JSON",
        "none",
        "web-chat: a JSON object merged under each request's body, for switches that the mirror wants",
    ),
    row("DEFAULT_MODEL", "NAME", "the upstream's first", "Model when the caller names none"),
    row(
        "MODELS",
        "NAMES",
        "asked of the upstream",
        "Comma-separated model names, for upstreams that cannot list theirs; no other may then be named",
    ),
    row(
        "GATEWAY_API_KEYS",
        "KEYS",
        "one is generated at the first start",
        "Comma-separated `name:key` or `key` that callers must present; 16 characters at least",
    ),
    row(
        "GATEWAY_AUTH",
        "MODE",
        "key",
        "key, or none: then any program of this machine may call, and the start is refused where others could",
    ),
    row(
        "HOSTS_ALLOWED",
        "NAMES",
        "none",
        "Comma-separated host names by which the service may be called, besides localhost and loopback addresses, when GATEWAY_AUTH is none",
    ),
    row(
        "PUBLIC_URL",
        "URL",
        "worked out from the platform or the connection",
        "This service's own public base URL, which the documents carry",
    ),
    row(
        "TRUST_PROXY_HEADERS",
        "BOOL",
        "false",
        "Believe X-Forwarded-* and Host from any peer, not from loopback alone; only behind a proxy that sets them",
    ),
    row("HOST", "ADDRESS", "127.0.0.1; 0.0.0.0 on a recognised platform", "Address to listen on"),
    row("PORT", "NUMBER", "8080", "Port to listen on; 0 takes a free one"),
    row(
        "DATABASE_URL",
        "URL",
        "a SQLite file in DATA_DIR",
        "Where conversations and keys are kept: sqlite://PATH, postgres://…, or memory:",
    ),
    row(
        "CONVERSATION_TTL_DAYS",
        "DAYS",
        "30",
        "Days after its last turn when a conversation is deleted; 0 keeps it",
    ),
    row(
        "DATA_DIR",
        "PATH",
        "the platform's volume, else the user's data directory",
        "Folder of the SQLite file",
    ),
    row(
        "SECRET_KEY",
        "TEXT",
        "none: kept in clear",
        "Long random text that seals the upstream's cookies and key in the store",
    ),
    row(
        "SESSION_WEBHOOK_URL",
        "URL",
        "none",
        "Address that is told, by a POST, when the upstream's session expires",
    ),
    row(
        "CORS_ALLOWED_ORIGINS",
        "ORIGINS",
        "*",
        "Comma-separated browser origins that may call; never with credentials; with GATEWAY_AUTH=none * lets none in",
    ),
    row("CONNECT_TIMEOUT_SECONDS", "SECONDS", "5", "Towards the upstream: name, connection and TLS"),
    row(
        "FIRST_BYTE_TIMEOUT_SECONDS",
        "SECONDS",
        "120",
        "Towards the upstream: from the request to the first byte of the answer",
    ),
    row(
        "IDLE_TIMEOUT_SECONDS",
        "SECONDS",
        "60",
        "Towards the upstream: the longest silence within an answer",
    ),
    row("REQUEST_TIMEOUT_SECONDS", "SECONDS", "290", "Towards the upstream: the whole answer"),
    row(
        "LONG_ANSWER_TIMEOUT_SECONDS",
        "SECONDS",
        "600",
        "How long an answer of /api/chat may go on after REQUEST_TIMEOUT_SECONDS, counted from its beginning",
    ),
    row(
        "LONG_ANSWERS",
        "BOOL",
        "false",
        "Offer importers the tool get_answer and the parameter wait_seconds, for answers of more than five minutes",
    ),
    row(
        "HEARTBEAT_AFTER_SECONDS",
        "SECONDS",
        "45",
        "Towards callers: when the first blank announces a late JSON answer; 0 switches it off",
    ),
    row(
        "HEARTBEAT_SECONDS",
        "SECONDS",
        "15",
        "Towards callers: from one such blank to the next, and from one comment to the next in a silent stream; 0 switches both off",
    ),
    row("MAX_BODY_BYTES", "BYTES", "2097152", "Largest request body of /api/*"),
    row("MAX_V1_BODY_BYTES", "BYTES", "20971520", "Largest request body of /v1/*"),
    row(
        "MAX_BODIES_BYTES",
        "BYTES",
        "67108864",
        "How many bytes of request bodies a process holds at once; more are refused with Retry-After",
    ),
    row("HEADER_TIMEOUT_SECONDS", "SECONDS", "5", "Towards callers: for the head of a request"),
    row(
        "BODY_IDLE_TIMEOUT_SECONDS",
        "SECONDS",
        "10",
        "Towards callers: the longest pause within a request body",
    ),
    row("BODY_TIMEOUT_SECONDS", "SECONDS", "30", "Towards callers: for the whole body of a request"),
    row(
        "SLOW_READER_TIMEOUT_SECONDS",
        "SECONDS",
        "30",
        "Towards callers: how long one may take nothing of what is sent to it before its call ends (Linux)",
    ),
    row(
        "MAX_STREAMS",
        "NUMBER",
        "1024",
        "How many questions a process answers at once; more are refused with Retry-After",
    ),
    row(
        "MAX_STREAMS_PER_KEY",
        "NUMBER",
        "64; no bound of its own for a single key in GATEWAY_API_KEYS",
        "How many of them may be of one gateway key",
    ),
    row(
        "MAX_LONG_ANSWERS",
        "NUMBER",
        "100",
        "How many answers may go on in a process after their callers were told to come back",
    ),
    row(
        "RATE_LIMIT_PER_MINUTE",
        "NUMBER",
        "0: no limit",
        "How many requests a minute one gateway key may send to a process; more are refused with Retry-After",
    ),
    row("MAX_ANSWER_BYTES", "BYTES", "16777216", "Towards the upstream: the largest answer"),
    row("MAX_LINE_BYTES", "BYTES", "1048576", "Towards the upstream: the longest line of a streamed answer"),
    row(
        "SHUTDOWN_TIMEOUT_SECONDS",
        "SECONDS",
        "30",
        "How long running answers may take to finish when the service is told to stop",
    ),
    row(
        "HISTORY_MAX_MESSAGES",
        "NUMBER",
        "100",
        "All but web-chat: how many messages of a conversation are sent again with a question",
    ),
    row(
        "HISTORY_MAX_BYTES",
        "BYTES",
        "262144",
        "All but web-chat: how many bytes of a conversation are sent again with a question",
    ),
    row("METRICS_PUBLIC", "BOOL", "false", "Whether /metrics may be read without a gateway key"),
    row("LOG_FORMAT", "FORMAT", "text on a terminal, json otherwise", "text or json"),
    row("RUST_LOG", "FILTER", "info,actix_server=warn", "Log filter, as env_logger takes it"),
];
