//! What a person pastes out of a browser, made into the settings of an upstream: "Copy as cURL" for bash or cmd,
//! as PowerShell, as fetch, or a Cookie line.
//!
//! The text is only read: nothing in it is run, and nothing is asked of any network. `words` undoes
//! the shell's quoting and `command` reads curl's options, `powershell` and `fetch` read the other forms; `settings`
//! tells what of the request is a setting, `note` what is said of the rest.

mod command;
mod fetch;
mod note;
mod powershell;
mod request;
mod settings;
mod words;

pub use note::{Mistake, Note, Reason};
pub use settings::Imported;

use crate::config::settings::UPSTREAM_COOKIE;
use crate::config::{UpstreamGroup, parse_cookie_line};

/// The form in which a request was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// "Copy as cURL (bash)", "(POSIX)", and that of Safari.
    Bash,
    /// "Copy as cURL (cmd)", "(Windows)".
    Cmd,
    /// "Copy as PowerShell".
    PowerShell,
    /// "Copy as fetch".
    Fetch,
    /// The value of the Cookie header alone.
    CookieLine,
}

impl Form {
    /// Its code.
    pub fn code(self) -> &'static str {
        match self {
            Form::Bash => "bash",
            Form::Cmd => "cmd",
            Form::PowerShell => "powershell",
            Form::Fetch => "fetch",
            Form::CookieLine => "cookie",
        }
    }

    /// The form that a text seems to have.
    fn of(text: &str) -> Self {
        if fetch::is_fetch(text) {
            Form::Fetch
        } else if powershell::is_powershell(text) {
            Form::PowerShell
        } else if !text.to_ascii_lowercase().contains("curl") && is_cookie_line(text) {
            Form::CookieLine
        } else if words::is_cmd(text) {
            Form::Cmd
        } else {
            Form::Bash
        }
    }
}

/// Reads the settings out of a text, and tells its form. Of several requests ("Copy all as cURL") the first that
/// sends a message counts.
///
/// # Errors
/// Why there is none.
pub fn import(text: &str) -> Result<(Imported, Form), Mistake> {
    let text = text.trim_start_matches('\u{feff}');
    let form = Form::of(text);
    let requests = match form {
        Form::CookieLine => return Ok((cookie_line(text), form)),
        Form::Fetch => fetch::requests(text),
        Form::PowerShell => powershell::requests(text)?,
        Form::Bash | Form::Cmd => words::commands(text)?.iter().map(|words| command::read(words)).collect(),
    };
    let mut first = None;
    for request in requests {
        match request.and_then(|request| Imported::from(&request)) {
            Ok(mut imported) => {
                let lacks_login = imported.notes.iter_mut().find(|note| note.reason == Reason::NoLogin);
                if let Some(note) = lacks_login.filter(|_| form == Form::Fetch) {
                    note.reason = Reason::FormWithoutCookies;
                }
                return Ok((imported, form));
            }
            Err(mistake) => first = first.or(Some(mistake)),
        }
    }
    Err(first.unwrap_or(Mistake::NOTHING))
}

fn is_cookie_line(text: &str) -> bool {
    let line = text.trim();
    let named = line.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("cookie:"));
    let first = line.split(['=', ' ']).next().unwrap_or_default();
    let is_name =
        !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_graphic() && !b"(){}\"'".contains(&byte));
    (named || is_name && line.contains('=')) && parse_cookie_line(line).is_ok()
}

fn cookie_line(text: &str) -> Imported {
    let mut group = UpstreamGroup::default();
    let line = text.trim();
    let named = line.get(..7).filter(|word| word.eq_ignore_ascii_case("cookie:"));
    group.set(UPSTREAM_COOKIE.name, named.map_or(line, |word| &line[word.len()..]));
    Imported { group, notes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse_env_file};
    use secrecy::ExposeSecret;

    /// As Chrome copies it for bash.
    const BASH: &str = r#"curl 'https://mirror.example.com/rest/app-chat/conversations/new' \
  -H 'accept: */*' \
  -H 'accept-language: en-US,en;q=0.9' \
  -H 'content-type: application/json' \
  -b 'sso=abc.def; theme="dark"; $x=#1' \
  -H 'origin: https://mirror.example.com' \
  -H 'priority: u=1, i' \
  -H 'referer: https://mirror.example.com/c/1' \
  -H 'sec-ch-ua: "Chromium";v="130"' \
  -H 'sec-fetch-mode: cors' \
  -H 'traceparent: 00-1-2-00' \
  -H 'user-agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/130' \
  -H 'x-request-id: 2f1c9d1e-8b1a-4c2d-9e3f-0a1b2c3d4e5f' \
  -H 'x-signature: abc=' \
  --data-raw $'{"temporary":false,"modelName":"m-4","message":"it\'s me: \\"hi\\"\\n\u4f60\u597d","parentResponseId":"r1","fileAttachments":[],"toolOverrides":{},"note":"don\'t"}' \
  --compressed"#;

    /// The same as Chrome copies it for cmd.exe.
    const CMD: &str = "curl ^\"https://mirror.example.com/rest/app-chat/conversations/new^\" ^\r\n  -H ^\"accept: */*^\" ^\r\n  -H ^\"content-type: application/json^\" ^\r\n  -b ^\"sso=abc.def; theme=^\\^\"dark^\\^\"; ^$x=^#1^\" ^\r\n  -H ^\"origin: https://mirror.example.com^\" ^\r\n  -H ^\"referer: https://mirror.example.com/c/1^\" ^\r\n  -H ^\"sec-ch-ua: ^\\^\"Chromium^\\^\";v=^\\^\"130^\\^\"^\" ^\r\n  -H ^\"user-agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/130^\" ^\r\n  -H ^\"x-request-id: 2f1c9d1e-8b1a-4c2d-9e3f-0a1b2c3d4e5f^\" ^\r\n  -H ^\"x-signature: abc=^\" ^\r\n  --data-raw ^\"^{^\\^\"temporary^\\^\":false,^\\^\"modelName^\\^\":^\\^\"m-4^\\^\",^\\^\"message^\\^\":^\\^\"it's me^\\^\",^\\^\"parentResponseId^\\^\":^\\^\"r1^\\^\",^\\^\"fileAttachments^\\^\":^[^],^\\^\"toolOverrides^\\^\":^{^},^\\^\"note^\\^\":^\\^\"don't^\\^\"^}^\"";

    /// The same as Chrome copies it for PowerShell.
    const POWERSHELL: &str = r##"$session = New-Object Microsoft.PowerShell.Commands.WebRequestSession
$session.UserAgent = "Mozilla/5.0 (X11; Linux x86_64) Chrome/130"
$session.Cookies.Add((New-Object System.Net.Cookie("sso", "abc.def", "/", "mirror.example.com")))
$session.Cookies.Add((New-Object System.Net.Cookie("theme", "`"dark`"", "/", "mirror.example.com")))
$session.Cookies.Add((New-Object System.Net.Cookie("`$x", "#1", "/", "mirror.example.com")))
Invoke-WebRequest -UseBasicParsing -Uri "https://mirror.example.com/rest/app-chat/conversations/new" `
-Method "POST" `
-WebSession $session `
-Headers @{
"authority"="mirror.example.com"
  "method"="POST"
  "path"="/rest/app-chat/conversations/new"
  "scheme"="https"
  "accept"="*/*"
  "accept-encoding"="gzip, deflate, br, zstd"
  "origin"="https://mirror.example.com"
  "referer"="https://mirror.example.com/c/1"
  "sec-ch-ua"="`"Chromium`";v=`"130`""
  "x-request-id"="2f1c9d1e-8b1a-4c2d-9e3f-0a1b2c3d4e5f"
  "x-signature"="abc="
} `
-ContentType "application/json" `
-Body ([System.Text.Encoding]::UTF8.GetBytes("{`"temporary`":false,`"modelName`":`"m-4`",`"message`":`"$([char]20320)$([char]22909)`",`"fileAttachments`":[],`"toolOverrides`":{},`"note`":`"don't`"}"))"##;

    /// The same as Chrome copies it as fetch for Node.js.
    const FETCH: &str = r##"fetch("https://mirror.example.com/rest/app-chat/conversations/new", {
  "headers": {
    "accept": "*/*",
    "content-type": "application/json",
    "cookie": "sso=abc.def; theme=\"dark\"; $x=#1",
    "origin": "https://mirror.example.com",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/130",
    "x-request-id": "2f1c9d1e-8b1a-4c2d-9e3f-0a1b2c3d4e5f",
    "x-signature": "abc=",
    "Referer": "https://mirror.example.com/c/1"
  },
  "body": "{\"temporary\":false,\"modelName\":\"m-4\",\"message\":\"你好\",\"fileAttachments\":[],\"toolOverrides\":{},\"note\":\"don't\"}",
  "method": "POST"
});"##;

    fn read(text: &str) -> Imported {
        import(text).unwrap_or_else(|mistake| panic!("{mistake:?}: {text}")).0
    }

    fn config(imported: &Imported) -> Config {
        let (text, _) = imported.env().expect("lines");
        let values = parse_env_file(&text).expect("a good file");
        Config::load(&|name: &str| values.get(name).cloned(), std::iter::empty())
            .unwrap_or_else(|problems| panic!("{problems}{text}"))
    }

    #[test]
    fn all_forms_become_the_same_settings_and_our_own_reader_takes_them() {
        for (text, form) in [(BASH, "bash"), (CMD, "cmd"), (POWERSHELL, "powershell"), (FETCH, "fetch")] {
            assert_eq!(import(text).map(|(_, form)| form.code()), Ok(form));
            let imported = read(text);
            let upstream = config(&imported).upstream;
            assert_eq!(upstream.url.as_ref().map(url::Url::as_str), Some("https://mirror.example.com/"));
            assert_eq!(upstream.protocol.name(), "web-chat");
            assert_eq!(
                upstream.cookie.as_ref().map(|cookie| cookie.expose_secret()),
                Some("sso=abc.def; theme=\"dark\"; $x=#1")
            );
            let mut headers: Vec<_> =
                upstream.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
            headers.sort_unstable();
            assert_eq!(
                headers,
                [
                    ("origin", "https://mirror.example.com"),
                    ("referer", "https://mirror.example.com/c/1"),
                    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Chrome/130"),
                    ("x-request-id", "{uuid}"),
                    ("x-signature", "abc="),
                ]
            );
            assert_eq!(
                serde_json::Value::Object(upstream.body),
                serde_json::json!({"temporary": false, "fileAttachments": [], "toolOverrides": {}, "note": "don't"})
            );
            assert_eq!(upstream.default_model.as_deref(), Some("m-4"));
        }
    }

    #[test]
    fn what_is_left_out_is_told_without_its_value() {
        let notes = read(BASH).notes.iter().map(Note::text).collect::<Vec<_>>().join("\n");
        for name in ["accept", "sec-ch-ua", "traceparent", "priority", "message", "parentResponseId"] {
            assert!(notes.contains(&format!("`{name}`")), "{name}: {notes}");
        }
        for value in ["abc.def", "hi", "00-1-2-00", "Chromium"] {
            assert!(!notes.contains(value), "{value}: {notes}");
        }
    }

    #[test]
    fn a_request_of_the_openai_protocol_gives_its_key() {
        let text = r#"curl https://api.example.com/openai/v1/chat/completions -H "Authorization: Bearer sk-abc" -H "Content-Type: application/json" -d '{"model":"gpt-x","messages":[]}'"#;
        let imported = read(text);
        let upstream = config(&imported).upstream;
        assert_eq!(
            upstream.url.map(String::from).as_deref(),
            Some("https://api.example.com/openai/v1/chat/completions")
        );
        assert_eq!(upstream.protocol.name(), "openai");
        assert_eq!(upstream.api_key.map(|key| key.expose_secret().to_string()).as_deref(), Some("sk-abc"));
        assert_eq!(upstream.default_model.as_deref(), Some("gpt-x"));
        assert!(upstream.cookie.is_none() && upstream.headers.is_empty() && upstream.body.is_empty());
    }

    #[test]
    fn a_later_turn_and_firefoxs_forms_are_understood() {
        let turn = "curl 'https://m.example.com/x/rest/app-chat/conversations/c-1/responses' -X POST -H 'Cookie: a=b' --data-raw '{\"message\":\"x\",\"modelName\":\"m\"}'";
        let upstream = config(&read(turn)).upstream;
        assert_eq!(upstream.url.map(String::from).as_deref(), Some("https://m.example.com/x"));
        let firefox = concat!(
            "curl.exe \"https://m.example.com/rest/app-chat/conversations/new\" ^\n",
            "  --compressed ^\n  -X POST ^\n  -H \"Cookie: a=b\"%\"3Ac; d=^x\" ^\n",
            "  --data-raw \"{\"\"message\"\":\"\"x\"\",\"\"modelName\"\":\"\"m\"\",\"\"a\"\":\"\"b c\"\"}\"",
        );
        let upstream = config(&read(firefox)).upstream;
        let cookie = upstream.cookie.map(|cookie| cookie.expose_secret().to_string());
        assert_eq!(cookie.as_deref(), Some("a=b%3Ac; d=^x"));
        assert_eq!(upstream.body["a"], "b c");
    }

    #[test]
    fn of_several_commands_the_one_that_sends_a_message_counts() {
        let other = "curl 'https://m.example.com/favicon.ico' -H 'accept: */*'";
        let text = format!("{other} ;\n{other} &\n{BASH}\n");
        assert!(read(&text) == read(BASH));
    }

    #[test]
    fn bad_input_is_told_what_it_is() {
        let openai = |data: &str| format!("curl https://a.example.com/v1/chat/completions -d {data}");
        for (text, words) in [
            ("", "no copied request"),
            ("hello there", "no copied request"),
            ("fetch(\"https://m.example.com/\", {\"headers\": {}})", "sends no message"),
            ("fetch(url, {headers})", "cannot be read"),
            ("Invoke-WebRequest -Uri \"https://m.example.com\"", "sends no message"),
            ("curl 'https://m.example.com", "not closed"),
            ("curl", "no address"),
            ("curl 'https://m.example.com/rest/app-chat/conversations'", "sends no message"),
            ("curl 'https://m.example.com/rest/app-chat/conversations/new'", "sends no message"),
            ("curl 'https://m.example.com/rest/app-chat/conversations/new' -d 'a=b'", "no JSON object"),
            ("curl ftp://m.example.com/x", "no http"),
            (&openai("@body.json"), "a file"),
            (&openai("'{\"model\":\"$(id)\"}'"), ""),
            (&openai("\"$(id)\""), "the shell"),
            (&openai("`id`"), "the shell"),
        ] {
            match import(text) {
                Ok(_) => assert!(words.is_empty(), "{text}"),
                Err(mistake) => {
                    assert!(!words.is_empty() && mistake.what.contains(words), "{text}: {mistake:?}")
                }
            }
        }
    }

    #[test]
    fn copying_as_fetch_says_that_it_has_no_cookie() {
        let text = r#"await fetch("https://m.example.com/rest/app-chat/conversations/new", {
    "credentials": "include", "headers": {"User-Agent": "F"}, "referrer": "https://m.example.com/",
    "body": "{\"message\":\"x\",\"modelName\":\"m\"}", "method": "POST", "mode": "cors"
});"#;
        let imported = read(text);
        assert!(imported.notes.iter().any(|note| note.reason == Reason::FormWithoutCookies));
        assert_eq!(config(&imported).upstream.headers.len(), 2);
    }

    #[test]
    fn a_cookie_line_alone_is_one() {
        for text in ["Cookie: sso=a; b=c", "  sso=a; b=c\n"] {
            let (imported, form) = import(text).expect("a line");
            assert_eq!(form, Form::CookieLine);
            assert_eq!(imported.group.get("UPSTREAM_COOKIE"), Some("sso=a; b=c"));
        }
    }

    #[test]
    fn a_request_of_anthropics_protocol_gives_its_key() {
        let text = r#"curl https://a.example.com/v1/messages -H "x-api-key: sk-ant" -H "anthropic-version: 2023-06-01" -d '{"model":"c","messages":[]}'"#;
        let upstream = config(&read(text)).upstream;
        assert_eq!(upstream.protocol.name(), "anthropic");
        assert_eq!(upstream.api_key.map(|key| key.expose_secret().to_string()).as_deref(), Some("sk-ant"));
    }

    #[test]
    fn a_long_text_is_read_whole() {
        let note = "x".repeat(200 << 10);
        let text = BASH.replace("don\\'t", &note);
        assert_eq!(config(&read(&text)).upstream.body["note"], note);
    }
}
