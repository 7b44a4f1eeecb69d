//! All settings, each declared once: name, kind with range and default, and what it means in the
//! languages of the documents.
//!
//! Everything else follows: the typed value, the flag with its help, `.env.example` and the tables of
//! the documents. A group's table says in which document its settings stand. The English text is the
//! doc comment; both texts are Markdown. `unset` says in words what holds where nothing is set, with
//! `{}` for the default; `example` is what `.env.example` shows where the default shows nothing.

use std::net::Ipv4Addr;

use super::Protocol;
use super::declaration::{AnyKind, Group, Setting, Table, Words, declare};
use super::kinds::{
    Address, Choice, Flag, Number, Seconds, SecondsOrOff, Text, TextOr, bytes, choice, days, flag, number,
    seconds, seconds_or_off, secret, text, text_or,
};

declare! {
    "The mirror", Settings {
        /// Base URL of the mirror; with or without `/v1`, or the full address of a chat; several with commas
        /// between
        UPSTREAM_URL: Text = text("URL"),
            zh: "鏡像站的基底網址；有無 `/v1` 皆可，也可填完整的聊天網址；多個位址以逗號分隔",
            unset: "none: the built-in demo upstream" / "無：使用內建示範上游",
            example: "https://mirror.example.com";

        /// TOML file with one block `[[upstream]]` for each of several mirrors, in place of `UPSTREAM_URL`
        UPSTREAMS_FILE: TextOr = text_or("PATH", "mirrorgate.toml"),
            zh: "取代 `UPSTREAM_URL` 的 TOML 檔，每個上游各有一個 `[[upstream]]` 區塊",
            unset: "{}, if it is there" / "{}（若存在）";

        /// What the mirror speaks: `openai` (JSON and SSE), `web-chat` (NDJSON with cookies) or `anthropic`
        /// (Anthropic's Messages API)
        UPSTREAM_PROTOCOL: Choice<Protocol> = choice(Protocol::NAMES, Protocol::OpenAi),
            zh: "鏡像站使用的協定：`openai`（JSON 與 SSE）、`web-chat`（NDJSON 與 Cookie）或 `anthropic`（Anthropic 的 Messages API）";

        /// Key for the mirror, sent as a bearer token (`anthropic`: as `x-api-key`)
        UPSTREAM_API_KEY: Text = secret("KEY"),
            zh: "鏡像站的金鑰，以 Bearer 權杖送出（`anthropic`：以 `x-api-key` 送出）",
            example: "sk-...";

        /// Cookie header line, as copied from the browser's developer tools
        UPSTREAM_COOKIE: Text = secret("LINE"),
            zh: "從瀏覽器開發人員工具複製的 Cookie 標頭整行內容",
            example: "name=value; name2=value2";

        /// More headers for the mirror, one `Name: value` a line; `{uuid}` becomes a new UUID each request
        UPSTREAM_HEADERS: Text = secret("LINES"),
            zh: "送給鏡像站的其他標頭，每行一個 `Name: value`；`{uuid}` 會在每次請求換成新的 UUID",
            example: "\"User-Agent: ...\nOrigin: https://mirror.example.com\"";

        /// `web-chat`: a JSON object merged under each request's body, for switches that the mirror wants
        UPSTREAM_BODY: Text = text("JSON"),
            zh: "`web-chat`：一個 JSON 物件，併入每次請求的內容，供鏡像站所需的開關使用",
            example: "{\"temporary\": true}";

        /// `web-chat`: offer the tools of a request on `/v1` to the model in its prompt, and read its calls out of
        /// its words, asking once more for one that cannot be read; `false` refuses such requests
        TOOL_EMULATION: Flag = flag(true),
            zh: "`web-chat`：把 `/v1` 請求中的工具寫進提示提供給模型，再從它的文字讀回呼叫，無法讀取時再要求一次；`false` 則拒絕這類請求";

        /// Model when the caller names none
        DEFAULT_MODEL: Text = text("NAME"),
            zh: "呼叫端未指定模型時使用的模型",
            unset: "the upstream's first" / "上游的第一個模型",
            example: "gpt-4o";

        /// Comma-separated model names, for upstreams that cannot list theirs; no other may then be named
        MODELS: Text = text("NAMES"),
            zh: "以逗號分隔的模型名稱，供無法列出模型的上游使用；設定後只能使用清單中的模型",
            unset: "asked of the upstream" / "向上游查詢",
            example: "gpt-4o,gpt-4o-mini";
    }

    "Who may call", Settings {
        /// Comma-separated keys that callers must present, each as `name:key` or alone; 16 characters at least
        GATEWAY_API_KEYS: Text = secret("KEYS"),
            zh: "呼叫端必須出示的金鑰，以逗號分隔的 `name:key` 或 `key`；至少 16 個字元",
            unset: "one is generated at the first start" / "首次啟動時自動產生一把",
            example: "dify:replace-me-with-a-long-random-key";

        /// The owner's key, which opens what callers may not do: the upstream's login, keys, metrics, the doctor;
        /// 16 characters at least
        ADMIN_KEY: Text = secret("KEY"),
            zh: "擁有者的金鑰，可使用呼叫端不可用的功能：上游登入、金鑰、指標與 doctor；至少 16 個字元",
            unset: "one is generated at the first start, where it can be kept" / "首次啟動時自動產生一把（若能保存）",
            example: "replace-me-with-another-long-random-key";

        /// `key`, or `none`: then any program of this machine may call, and the start is refused where others
        /// could: with another than a loopback `HOST`, a tunnel, a hosting platform, a `PUBLIC_URL` of
        /// another host, or `TRUST_PROXY_HEADERS`
        GATEWAY_AUTH: Choice<bool> = choice(&[("key", true), ("none", false)], true),
            zh: "`key`，或 `none`：本機的任何程式都能呼叫；若外人可能連入則拒絕啟動：`HOST` 不是本機回送位址、使用通道、在託管平台上、`PUBLIC_URL` 是其他主機，或設了 `TRUST_PROXY_HEADERS`";

        /// Comma-separated host names by which the service may be called, besides `localhost` and loopback
        /// addresses, when `GATEWAY_AUTH` is `none`
        HOSTS_ALLOWED: Text = text("NAMES"),
            zh: "當 `GATEWAY_AUTH` 為 `none` 時，除 `localhost` 與本機回送位址之外，還可用來呼叫本服務的主機名稱，以逗號分隔",
            example: "host.docker.internal";

        /// Comma-separated browser origins that may call; never with credentials; with `GATEWAY_AUTH=none`
        /// `*` lets none in
        CORS_ALLOWED_ORIGINS: TextOr = text_or("ORIGINS", "*"),
            zh: "可呼叫的瀏覽器來源，以逗號分隔；一律不附帶憑證；`GATEWAY_AUTH=none` 時，`*` 不放行任何來源";
    }

    "Where the service is", Settings {
        /// This service's own public base URL, which the documents carry
        PUBLIC_URL: Text = text("URL"),
            zh: "本服務對外的基底網址，會寫進文件",
            unset: "worked out from the platform or the connection" / "由平台或連線推算",
            example: "https://your-app.example.com";

        /// Believe X-Forwarded-* and Host from any peer, not from loopback alone; only behind a proxy that
        /// sets them
        TRUST_PROXY_HEADERS: Flag = flag(false),
            zh: "相信任何來源的 X-Forwarded-* 與 Host，而不只是本機；僅限前方有會設定這些標頭的代理時使用";

        /// Address to listen on
        HOST: Address = Address(Ipv4Addr::LOCALHOST),
            zh: "監聽的位址",
            unset: "{}; all addresses on a recognised platform" / "{}；在可辨識的平台上為所有位址";

        /// Port to listen on; 0 takes a free one
        PORT: Number<u16> = number(8080, 0..=u16::MAX),
            zh: "監聽的連接埠；0 表示自動選一個";
    }

    "What is kept", Settings {
        /// Where conversations and keys are kept: `sqlite://PATH`, `postgres://…`, or `memory:`
        DATABASE_URL: Text = secret("URL"),
            zh: "對話與金鑰的保存位置：`sqlite://PATH`、`postgres://…` 或 `memory:`",
            unset: "a SQLite file in `DATA_DIR`" / "`DATA_DIR` 中的 SQLite 檔案",
            example: "postgres://mirrorgate:password@127.0.0.1/mirrorgate";

        /// The most connections that a process makes to PostgreSQL
        DATABASE_POOL_SIZE: Number<usize> = number(5, 1..=1000),
            zh: "單一程序對 PostgreSQL 建立的連線數上限";

        /// Days after its last turn when a conversation is deleted; 0 keeps it
        CONVERSATION_TTL_DAYS: Number<u64> = days(30, 0..=36_500),
            zh: "對話在最後一輪之後幾天刪除；0 表示不刪除";

        /// Folder of the SQLite file
        DATA_DIR: Text = text("PATH"),
            zh: "SQLite 檔案所在的資料夾",
            unset: "the platform's volume, else the user's data directory" / "平台的磁碟區，否則為使用者的資料目錄",
            example: "/var/lib/mirrorgate";

        /// Long random text that seals the upstream's cookies and key in the store
        SECRET_KEY: Text = secret("TEXT"),
            zh: "一段夠長的隨機文字，用來加密保存的上游 Cookie 與金鑰",
            unset: "none: kept in clear" / "無：以明文保存",
            example: "the-output-of-openssl-rand-base64-32";

        /// Address that is told, by a POST, when the upstream's session expires
        SESSION_WEBHOOK_URL: Text = secret("URL"),
            zh: "上游登入失效時，以 POST 通知的網址",
            example: "https://example.com/hooks/mirrorgate";
    }

    "A bucket for snapshots", Backup {
        /// Bucket in which a SQLite store is kept as well, `s3://BUCKET/PREFIX`: a start without a file takes
        /// the newest snapshot from there. One process alone
        BACKUP_URL: Text = text("URL"),
            zh: "另外保存 SQLite 的儲存桶，`s3://BUCKET/PREFIX`：啟動時若沒有檔案，就從那裡取回最新的快照。僅供一個程序使用",
            example: "s3://my-bucket/mirrorgate";

        /// From one snapshot to the next, where something has changed; a store of more than 30 MB waits a
        /// second for each of its megabytes
        BACKUP_INTERVAL_SECONDS: Seconds = seconds(30.0),
            zh: "有變更時，兩次快照之間的時間；超過 30 MB 時，每 MB 等待一秒";

        /// Address of the S3 service, with buckets as folders of it
        AWS_ENDPOINT_URL_S3: Text = text("URL"),
            zh: "S3 服務的位址，儲存桶是其下的資料夾",
            unset: "`AWS_ENDPOINT_URL`" / "`AWS_ENDPOINT_URL`",
            example: "https://ACCOUNT.r2.cloudflarestorage.com";

        /// The same for programs that use more of such a service
        AWS_ENDPOINT_URL: Text = text("URL"),
            zh: "同上，供還使用該服務其他功能的程式共用",
            unset: "Amazon's own" / "Amazon 的服務",
            example: "http://127.0.0.1:9000";

        /// Region of the bucket
        AWS_REGION: TextOr = text_or("NAME", "us-east-1"),
            zh: "儲存桶所在的區域";

        /// Key that may read, write, list and delete under the prefix
        AWS_ACCESS_KEY_ID: Text = text("ID"),
            zh: "可讀取、寫入、列出與刪除該路徑下物件的金鑰",
            example: "AKIA...";

        /// The secret of this key
        AWS_SECRET_ACCESS_KEY: Text = secret("SECRET"),
            zh: "該金鑰的密鑰",
            example: "...";

        /// Token that belongs to a key for a limited time
        AWS_SESSION_TOKEN: Text = secret("TOKEN"),
            zh: "有時效的金鑰所附的權杖",
            example: "...";
    }

    "Limits", Limits {
        /// Towards the upstream: name, connection and TLS
        CONNECT_TIMEOUT_SECONDS: Seconds = seconds(5.0),
            zh: "對上游：名稱解析、連線與 TLS";

        /// Towards the upstream: from the request to the first byte of the answer
        FIRST_BYTE_TIMEOUT_SECONDS: Seconds = seconds(120.0),
            zh: "對上游：從送出請求到收到第一個位元組";

        /// Towards the upstream: the longest silence within an answer
        IDLE_TIMEOUT_SECONDS: Seconds = seconds(60.0),
            zh: "對上游：回答途中最長的靜默時間";

        /// Towards the upstream: the whole answer
        REQUEST_TIMEOUT_SECONDS: Seconds = seconds(290.0),
            zh: "對上游：整個回答的時間";

        /// Let answers of `chat` go on for which their callers wait no longer, for those of more than five
        /// minutes: the tool `get_answer` returns them, and `wait_seconds` says how long to wait
        LONG_ANSWERS: Flag = flag(false),
            zh: "讓 `chat` 的回答在呼叫端不再等待後繼續進行，用於超過五分鐘的回答：以工具 `get_answer` 取回，並可用 `wait_seconds` 指定等待時間";

        /// With `LONG_ANSWERS`: how long an answer of `/api/chat` may take, counted from its beginning
        LONG_ANSWER_TIMEOUT_SECONDS: Seconds = seconds(600.0),
            zh: "啟用 `LONG_ANSWERS` 時，`/api/chat` 的回答最長可進行多久，自開始時計算";

        /// Towards callers of `/api/*` and MCP: when the first blank announces a late answer; 0 switches it off
        HEARTBEAT_AFTER_SECONDS: SecondsOrOff = seconds_or_off(45.0),
            zh: "對 `/api/*` 與 MCP 的呼叫端：回答較慢時，多久後送出第一個空白；0 表示停用";

        /// Towards callers of `/v1`: the same for a late JSON answer; Dify's model provider waits 300 seconds
        V1_HEARTBEAT_AFTER_SECONDS: SecondsOrOff = seconds_or_off(90.0),
            zh: "對 `/v1` 的呼叫端：JSON 回答較慢時，多久後送出第一個空白；0 表示停用。Dify 的模型供應商會等 300 秒";

        /// Towards callers: from one such blank to the next, and from one comment to the next in a silent
        /// stream; 0 switches both off
        HEARTBEAT_SECONDS: SecondsOrOff = seconds_or_off(15.0),
            zh: "對呼叫端：兩個空白之間的間隔，以及串流靜默時兩個註解之間的間隔；0 表示兩者皆停用";

        /// Largest request body of `/api/*`
        MAX_BODY_BYTES: Number<usize> = bytes(2 << 20, 1024..=1 << 30),
            zh: "`/api/*` 請求內容的大小上限";

        /// Largest request body of `/v1/*`
        MAX_V1_BODY_BYTES: Number<usize> = bytes(20 << 20, 1024..=1 << 30),
            zh: "`/v1/*` 請求內容的大小上限";

        /// Memory for the bodies, collected answers and conversations of all requests of a process together,
        /// three quarters of it for one gateway key of several; what would need more is refused with Retry-After
        MEMORY_BUDGET_BYTES: Number<u64> = bytes(160 << 20, 1024..=1 << 40),
            zh: "一個程序中所有請求的內容、收集中的回答與讀取的對話合計可用的記憶體，有多把閘道金鑰時單一金鑰至多四分之三；超過時拒絕並附上 Retry-After";

        /// Bytes of conversations and answers that are kept for each key without a limit of its own; 0 for any
        /// number. Over it a key reads and deletes, and keeps nothing new
        KEY_STORAGE_BYTES: Number<u64> = bytes(200 << 20, 0..=1 << 50),
            zh: "為每把未另設上限的金鑰保存的對話與回答的位元組數；0 表示不限。超過後該金鑰仍可讀取與刪除，但不再保存新內容";

        /// Towards callers: for the head of a request
        HEADER_TIMEOUT_SECONDS: Seconds = seconds(5.0),
            zh: "對呼叫端：收完請求標頭的時限";

        /// Towards callers: the longest pause within a request body
        BODY_IDLE_TIMEOUT_SECONDS: Seconds = seconds(10.0),
            zh: "對呼叫端：請求內容傳送途中最長的停頓";

        /// Towards callers: for the whole body of a request
        BODY_TIMEOUT_SECONDS: Seconds = seconds(30.0),
            zh: "對呼叫端：收完整個請求內容的時限";

        /// Towards callers: how long one may take nothing of what is sent to it before its call ends (Linux)
        SLOW_READER_TIMEOUT_SECONDS: Seconds = seconds(30.0),
            zh: "對呼叫端：對方多久完全不接收資料就結束該次呼叫（Linux）";

        /// How many questions a process answers at once; more are refused with Retry-After
        MAX_STREAMS: Number<usize> = number(1024, 1..=1_000_000),
            zh: "一個程序同時回答的提問數上限；超過時拒絕並附上 Retry-After";

        /// How many of them may be of one gateway key
        MAX_STREAMS_PER_KEY: Number<usize> = number(64, 1..=1_000_000),
            zh: "其中單一閘道金鑰的提問數上限",
            unset: "{}; no bound of its own for a single key in `GATEWAY_API_KEYS`" / "{}；`GATEWAY_API_KEYS` 只有一把金鑰時不另設上限";

        /// How many answers may go on in a process after their callers were told to come back
        MAX_LONG_ANSWERS: Number<usize> = number(100, 0..=1_000_000),
            zh: "一個程序中，呼叫端已被告知稍後再來取、仍在背景繼續的回答數上限";

        /// How many requests a minute one gateway key may send to a process; more are refused with
        /// Retry-After
        RATE_LIMIT_PER_MINUTE: Number<u32> = number(0, 0..=1_000_000),
            zh: "單一閘道金鑰每分鐘可向一個程序送出的請求數；超過時拒絕並附上 Retry-After",
            unset: "{}: no limit" / "{}：不限制",
            example: "120";

        /// Towards the upstream: the largest answer
        MAX_ANSWER_BYTES: Number<u64> = bytes(32 << 20, 1024..=1 << 30),
            zh: "對上游：單一回答的大小上限";

        /// How long running answers may take to finish when the service is told to stop
        SHUTDOWN_TIMEOUT_SECONDS: Seconds = seconds(30.0),
            zh: "服務收到停止指示後，進行中的回答最多還有多少時間完成";

        /// `openai`: how many messages of a conversation are sent again with a question
        HISTORY_MAX_MESSAGES: Number<usize> = number(100, 1..=100_000),
            zh: "`openai`：每次提問時一併重送的對話訊息數上限";

        /// `openai`: how many bytes of a conversation are sent again with a question
        HISTORY_MAX_BYTES: Number<usize> = bytes(256 << 10, 1024..=64 << 20),
            zh: "`openai`：每次提問時一併重送的對話位元組數上限";
    }

    "Logs and metrics", Settings {
        /// Whether `/metrics` may be read without the admin key
        METRICS_PUBLIC: Flag = flag(false),
            zh: "是否不需管理金鑰即可讀取 `/metrics`";

        /// `text` or `json`
        LOG_FORMAT: Choice<Option<bool>> = choice(&[("text", Some(false)), ("json", Some(true))], None),
            zh: "`text` 或 `json`",
            unset: "text on a terminal, json otherwise" / "終端機為 `text`，其他為 `json`",
            example: "text";

        /// Log filter, as env_logger takes it
        RUST_LOG: TextOr = text_or("FILTER", "info,actix_server=warn"),
            zh: "記錄篩選條件，語法同 env_logger";
    }
}

/// All settings, without their groups.
pub fn all() -> impl Iterator<Item = &'static Setting<dyn AnyKind>> {
    GROUPS.iter().flat_map(|group| group.settings).copied()
}
