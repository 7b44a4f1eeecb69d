//! What is said of a pasted text: what was left out or changed, and why a text is of no use. Each has a code,
//! by which a page says it in its reader's language. Never a value out of the text.

use std::borrow::Cow;

/// Why a text is no usable request, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Its code.
    pub code: &'static str,
    /// What is wrong.
    pub what: Cow<'static, str>,
    /// What to do.
    pub advice: &'static str,
}

macro_rules! mistakes {
    ($($name:ident: $code:literal, $what:literal, $advice:literal;)*) => {
        impl Mistake {
            $(pub(super) const $name: Self = Mistake { code: $code, what: Cow::Borrowed($what), advice: $advice };)*
        }
    };
}

mistakes! {
    NOTHING: "nothing", "there is no copied request in it",
        "in the browser's Network list choose Copy, Copy as cURL (bash), and paste the whole text; cURL (cmd), PowerShell and fetch (Node.js) are read too";
    UNCLOSED: "unclosed", "a quote is not closed", "copy the whole text: a part of the command is missing";
    SUBSTITUTION: "substitution", "the shell would run a command in it",
        "paste what the browser copied: nothing in it is run here";
    BAD_ESCAPE: "bad_escape", "an escape in it is no character", "copy the request again, as cURL (bash)";
    NO_ADDRESS: "no_address", "there is no address in the command", "copy the whole command from the browser";
    NO_HTTP: "no_http", "its address is no http or https URL", "copy a request to the mirror's host";
    BODY_IN_A_FILE: "body_in_a_file", "the body stands in a file",
        "copy the request from the browser: there the body is in the text";
    NO_JSON: "no_json", "the request's body is no JSON object",
        "copy it again, as cURL (bash): the text may have been changed on its way";
    BAD_FETCH: "bad_fetch", "the call of fetch cannot be read",
        "copy it again, whole; or choose Copy as cURL (bash)";
    ENV_QUOTES: "env_quotes", "a value holds both kinds of quotes and cannot be written to a `.env` file",
        "set it as an environment variable instead";
}

impl Mistake {
    /// That a request is another one than that of a message.
    pub(super) fn no_message(method: &str, path: &str) -> Self {
        Mistake {
            code: "no_message",
            what: format!("this request sends no message: {method} {path}").into(),
            advice: "send a message in the chat with the Network list open, and copy that request: its name is `new`, `responses`, `completions` or `messages`",
        }
    }
}

/// Why something was left out or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A header that each connection sets for itself.
    Connection,
    /// A header that describes the browser.
    Browser,
    /// A header that traces one request.
    Tracing,
    /// A header that becomes a new UUID each time.
    NewEachTime,
    /// A field of the body that belongs to the question.
    Question,
    /// The field of the body that names the model.
    Model,
    /// All fields of the body but the model.
    WholeBody,
    /// A header that a `.env` file cannot hold.
    Quotes,
    /// That such an upstream lists no models.
    ListsNoModels,
    /// That no model is named.
    NoModel,
    /// That there is no login in it.
    NoLogin,
    /// That this form of copying leaves cookies out.
    FormWithoutCookies,
}

/// What was left out or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Why.
    pub reason: Reason,
    /// What it is about, by name.
    pub names: Vec<String>,
}

impl Reason {
    /// Its code.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Connection => "connection",
            Reason::Browser => "browser",
            Reason::Tracing => "tracing",
            Reason::NewEachTime => "new_each_time",
            Reason::Question => "question",
            Reason::Model => "model",
            Reason::WholeBody => "whole_body",
            Reason::Quotes => "quotes",
            Reason::ListsNoModels => "lists_no_models",
            Reason::NoModel => "no_model",
            Reason::NoLogin => "no_login",
            Reason::FormWithoutCookies => "form_without_cookies",
        }
    }
}

impl Note {
    /// The note for a person at a terminal.
    pub fn text(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| format!("`{name}`")).collect();
        let names = names.join(", ");
        match self.reason {
            Reason::Connection => format!(
                "left out the header {names}: mirrorgate sets it for each request, as its own connection needs it"
            ),
            Reason::Browser => format!(
                "left out the header {names}: it describes the browser or the page, and a mirror's answer does not depend on it"
            ),
            Reason::Tracing => format!("left out the header {names}: it traces that one request"),
            Reason::NewEachTime => format!("{names} becomes a new UUID in each request (`{{uuid}}`)"),
            Reason::Question => format!("left out {names} of the body: it belongs to that one question"),
            Reason::Model => format!("left out {names} of the body: it is DEFAULT_MODEL"),
            Reason::WholeBody => format!("left out the body but for {names}: it belongs to that one question"),
            Reason::Quotes => {
                format!("left out the header {names}: its quotes cannot be written to a `.env` file")
            }
            Reason::ListsNoModels => {
                "a web chat cannot list its models: set MODELS to the names that you want to use".into()
            }
            Reason::NoModel => format!("the body names no model in {names}, so DEFAULT_MODEL is not set"),
            Reason::NoLogin => {
                "there is no cookie in the request: log in to the mirror first, and copy the request of that tab".into()
            }
            Reason::FormWithoutCookies => {
                "Copy as fetch leaves the cookies out: copy the request as cURL, or give the Cookie line as well".into()
            }
        }
    }
}
