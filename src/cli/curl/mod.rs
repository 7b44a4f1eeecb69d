//! A browser's "Copy as cURL" line of a chat's request, made into settings.
//!
//! The line is only read: nothing in it is run, and nothing is asked of any network. `words` undoes
//! the shell's quoting, `command` reads curl's options, `settings` tells what of the request is a
//! setting.

mod command;
mod settings;
mod words;

pub use settings::Imported;

/// Why a text is no usable request, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong; never a value out of the text.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

impl Mistake {
    fn new(what: impl Into<String>, advice: &'static str) -> Self {
        Mistake { what: what.into(), advice }
    }
}

/// Reads the settings out of a text. Of several commands ("Copy all as cURL") the first that sends a
/// message counts.
///
/// # Errors
/// Why there is none.
pub fn import(text: &str) -> Result<Imported, Mistake> {
    let mut first = None;
    for words in words::commands(text)? {
        match command::Request::read(&words).and_then(|request| settings::Imported::from(&request)) {
            Ok(imported) => return Ok(imported),
            Err(mistake) => first = first.or(Some(mistake)),
        }
    }
    Err(first.unwrap_or_else(|| {
        Mistake::new(
            "there is no curl command in it",
            "in the browser's Network list choose Copy, Copy as cURL (bash) or (cmd), and paste the whole text",
        )
    }))
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

    fn config(imported: &Imported) -> Config {
        let text = imported.env().expect("lines");
        let values = parse_env_file(&text).expect("a good file");
        Config::load(&|name: &str| values.get(name).cloned(), std::iter::empty())
            .unwrap_or_else(|problems| panic!("{problems}{text}"))
    }

    #[test]
    fn both_forms_become_the_same_settings_and_our_own_reader_takes_them() {
        for text in [BASH, CMD] {
            let imported = import(text).expect("a request");
            let upstream = config(&imported).upstream;
            assert_eq!(upstream.url.as_ref().map(url::Url::as_str), Some("https://mirror.example.com/"));
            assert_eq!(upstream.protocol.name(), "web-chat");
            assert_eq!(
                upstream.cookie.as_ref().map(|cookie| cookie.expose_secret()),
                Some("sso=abc.def; theme=\"dark\"; $x=#1")
            );
            let headers: Vec<_> =
                upstream.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
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
        let notes = import(BASH).expect("a request").notes.join("\n");
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
        let imported = import(text).expect("a request");
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
        let upstream = config(&import(turn).expect("a request")).upstream;
        assert_eq!(upstream.url.map(String::from).as_deref(), Some("https://m.example.com/x"));
        let firefox = concat!(
            "curl.exe \"https://m.example.com/rest/app-chat/conversations/new\" ^\n",
            "  --compressed ^\n  -X POST ^\n  -H \"Cookie: a=b\"%\"3Ac; d=^x\" ^\n",
            "  --data-raw \"{\"\"message\"\":\"\"x\"\",\"\"modelName\"\":\"\"m\"\",\"\"a\"\":\"\"b c\"\"}\"",
        );
        let upstream = config(&import(firefox).expect("a request")).upstream;
        let cookie = upstream.cookie.map(|cookie| cookie.expose_secret().to_string());
        assert_eq!(cookie.as_deref(), Some("a=b%3Ac; d=^x"));
        assert_eq!(upstream.body["a"], "b c");
    }

    #[test]
    fn of_several_commands_the_one_that_sends_a_message_counts() {
        let other = "curl 'https://m.example.com/favicon.ico' -H 'accept: */*'";
        let text = format!("{other} ;\n{other} &\n{BASH}\n");
        assert_eq!(import(&text).expect("a request"), import(BASH).expect("a request"));
    }

    #[test]
    fn bad_input_is_told_what_it_is() {
        let openai = |data: &str| format!("curl https://a.example.com/v1/chat/completions -d {data}");
        for (text, words) in [
            ("", "no curl command"),
            ("hello there", "no curl command"),
            ("fetch(\"https://m.example.com/\", {\"headers\": {}})", "fetch"),
            ("Invoke-WebRequest -Uri \"https://m.example.com\"", "PowerShell"),
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
}
