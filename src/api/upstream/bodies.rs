//! What is told of an upstream: never a credential in clear text, but to whoever has just sent it.

use secrecy::ExposeSecret;
use serde::Serialize;
use utoipa::ToSchema;

use super::request::Read;
use crate::config::Upstream;
use crate::doctor::Doctor;
use crate::domain::error::Error;
use crate::gateway::{KeptGroup, UpstreamKeeper};
use crate::http::reply::ErrorBody;
use crate::paste::{Mistake, Note};

/// Secrets that are shorter are masked whole.
const SHOWN_FROM: usize = 16;

/// An upstream, its credentials masked.
#[derive(Serialize, ToSchema)]
pub struct UpstreamBody {
    /// What it is called.
    #[schema(example = "https://mirror.example.com")]
    name: String,
    /// Its address; null for the demo.
    #[schema(required = true, example = "https://mirror.example.com/")]
    url: Option<String>,
    /// What it speaks: `openai`, `anthropic` or `web-chat`.
    #[schema(example = "web-chat")]
    protocol: &'static str,
    /// The end of its key; null without one.
    #[schema(required = true, example = "…9f2c")]
    api_key: Option<String>,
    /// The cookies of its login.
    cookies: Vec<CookieBody>,
    /// The names of the headers that it gets.
    #[schema(example = json!(["user-agent"]))]
    headers: Vec<String>,
    /// The names of the switches in each request's body.
    #[schema(example = json!(["temporary"]))]
    switches: Vec<String>,
    /// The model that is asked when the caller names none.
    #[schema(required = true, example = "m-4")]
    default_model: Option<String>,
    /// The models that are set; empty where the upstream lists them.
    #[schema(example = json!(["m-4"]))]
    models: Vec<String>,
}

/// A cookie, its value masked.
#[derive(Serialize, ToSchema)]
pub struct CookieBody {
    /// Its name.
    #[schema(example = "sso")]
    name: String,
    /// The end of its value.
    #[schema(example = "…9f2c")]
    value: String,
}

impl UpstreamBody {
    /// What is told of an upstream with these settings.
    pub fn of(settings: &Upstream) -> Self {
        let line = settings.cookie.as_ref().map(|line| line.expose_secret().to_string()).unwrap_or_default();
        let cookie = |pair: &str| {
            let (name, value) = pair.trim().split_once('=')?;
            Some(CookieBody { name: name.trim().into(), value: masked(value) })
        };
        UpstreamBody {
            name: settings.name.to_string(),
            url: settings.url.as_ref().map(url::Url::to_string),
            protocol: settings.protocol.name(),
            api_key: settings.api_key.as_ref().map(|key| masked(key.expose_secret())),
            cookies: line.split(';').filter_map(cookie).collect(),
            headers: settings.headers.iter().map(|(name, _)| name.clone()).collect(),
            switches: settings.body.keys().cloned().collect(),
            default_model: settings.default_model.clone(),
            models: settings.models.clone(),
        }
    }
}

fn masked(secret: &str) -> String {
    let count = secret.chars().count();
    let end: String = secret.chars().skip(count.saturating_sub(4)).collect();
    format!("…{}", if count < SHOWN_FROM { "" } else { &end })
}

/// Which upstream answers.
#[derive(Serialize, ToSchema)]
pub struct UpstreamResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// Where its settings come from: `environment`, `store`, or `demo` where there are none. `sealed`: the store has
    /// others, which do not open under this `SECRET_KEY`.
    #[schema(example = "store")]
    source: &'static str,
    /// The variables that name the upstream: where there are any, nothing can be set here.
    #[schema(example = json!(["UPSTREAM_URL"]))]
    locked: Vec<String>,
    /// The upstreams that answer.
    upstreams: Vec<UpstreamBody>,
    /// Whether what is set here is there after a restart.
    #[schema(example = true)]
    lasts: bool,
    /// Why not, where that is known.
    #[schema(required = true, example = "Render wipes this disk at each deployment and restart")]
    concern: Option<String>,
    /// Whether `SECRET_KEY` seals it.
    #[schema(example = true)]
    sealed: bool,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

impl UpstreamResult {
    /// What holds now.
    pub fn of(keeper: &UpstreamKeeper, doctor: &Doctor) -> Self {
        let present = keeper.present();
        let source = match &present.kept.group {
            _ if !keeper.variables().is_empty() => "environment",
            KeptGroup::Open(_) => "store",
            KeptGroup::Sealed => "sealed",
            KeptGroup::Absent => "demo",
        };
        UpstreamResult {
            success: true,
            source,
            locked: keeper.variables().to_vec(),
            upstreams: present
                .endpoints
                .iter()
                .map(|endpoint| UpstreamBody::of(&endpoint.settings))
                .collect(),
            lasts: doctor.place.lasts(),
            concern: doctor.place.concern.clone(),
            sealed: doctor.place.is_sealed,
            error: None,
        }
    }
}

/// What was read of a text or of fields.
#[derive(Serialize, ToSchema)]
pub struct ReadResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The form of the text: `bash`, `cmd`, `powershell`, `fetch` or `cookie`; null without one.
    #[schema(required = true, example = "bash")]
    form: Option<&'static str>,
    /// The length of the text in bytes.
    #[schema(example = 6348)]
    bytes: usize,
    /// What would be set; null where there is a mistake.
    #[schema(required = true)]
    upstream: Option<UpstreamBody>,
    /// What was left out or changed, and why.
    left_out: Vec<NoteBody>,
    /// Why nothing could be read.
    #[schema(required = true)]
    mistake: Option<MistakeBody>,
    /// The settings as the environment would have them, where `values` asked for that.
    settings: Vec<SettingBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// What was left out or changed.
#[derive(Serialize, ToSchema)]
pub struct NoteBody {
    /// Why, in a word.
    #[schema(example = "browser")]
    code: &'static str,
    /// What, by name.
    #[schema(example = json!(["sec-ch-ua"]))]
    names: Vec<String>,
    /// The same in a sentence.
    #[schema(
        example = "left out the header `sec-ch-ua`: it describes the browser or the page, and a mirror's answer does not depend on it"
    )]
    message: String,
}

/// Why nothing could be read.
#[derive(Serialize, ToSchema)]
pub struct MistakeBody {
    /// Why, in a word.
    #[schema(example = "unclosed")]
    code: &'static str,
    /// The same in a sentence.
    #[schema(example = "a quote is not closed")]
    message: String,
    /// What to do.
    #[schema(example = "copy the whole text: a part of the command is missing")]
    hint: String,
}

/// A setting, in clear text.
#[derive(Serialize, ToSchema)]
pub struct SettingBody {
    /// The variable.
    #[schema(example = "UPSTREAM_URL")]
    name: &'static str,
    /// Its value.
    #[schema(example = "https://mirror.example.com")]
    value: String,
}

impl ReadResult {
    /// What was read, with the upstream that it makes, or why it makes none.
    pub fn of(read: &Read, opened: Result<UpstreamBody, Error>, with_values: bool) -> Self {
        let note = |note: &Note| NoteBody {
            code: note.reason.code(),
            names: note.names.clone(),
            message: note.text(),
        };
        let settings = read.group.settings().filter(|_| with_values);
        let (upstream, mistake) = match opened {
            Ok(upstream) => (Some(upstream), None),
            Err(error) => {
                let (message, hint) = (error.caller_message(), error.hint().to_string());
                (None, Some(MistakeBody { code: "settings", message, hint }))
            }
        };
        ReadResult {
            success: true,
            form: read.form.map(|(form, _)| form.code()),
            bytes: read.form.map_or(0, |(_, bytes)| bytes),
            upstream,
            left_out: read.notes.iter().map(note).collect(),
            mistake,
            settings: settings.map(|(name, value)| SettingBody { name, value: value.into() }).collect(),
            error: None,
        }
    }

    /// That nothing could be read.
    pub fn mistaken(mistake: &Mistake) -> Self {
        let Mistake { code, what, advice } = mistake;
        ReadResult {
            success: true,
            form: None,
            bytes: 0,
            upstream: None,
            left_out: Vec::new(),
            mistake: Some(MistakeBody { code, message: what.to_string(), hint: advice.to_string() }),
            settings: Vec::new(),
            error: None,
        }
    }
}
