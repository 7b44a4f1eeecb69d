//! What a person says of an upstream: a pasted text, single fields, or both.

use serde::Deserialize;
use utoipa::ToSchema;

use super::open_group;
use crate::config::UpstreamGroup;
use crate::config::settings::{
    DEFAULT_MODEL, MODELS, UPSTREAM_API_KEY, UPSTREAM_BODY, UPSTREAM_COOKIE, UPSTREAM_HEADERS,
    UPSTREAM_PROTOCOL, UPSTREAM_URL,
};
use crate::domain::error::{Error, Kind};
use crate::gateway::KeptGroup;
use crate::paste::{self, Form, Mistake, Note};

/// An upstream. Fields win over what was pasted.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct UpstreamRequest {
    /// A browser's "Copy as cURL", "Copy as PowerShell" or "Copy as fetch" of the chat's own request, or a Cookie line.
    #[schema(
        example = "curl 'https://mirror.example.com/rest/app-chat/conversations/new' -b 'sso=abc' --data-raw '{\"message\":\"Hello\"}'"
    )]
    pasted: Option<String>,
    /// Base URL of the mirror.
    #[schema(example = "https://mirror.example.com")]
    url: Option<String>,
    /// `openai`, `anthropic` or `web-chat`.
    #[schema(example = "openai")]
    protocol: Option<String>,
    /// A key.
    #[schema(example = "sk-...")]
    api_key: Option<String>,
    /// A Cookie header line.
    #[schema(example = "sso=abc")]
    cookie: Option<String>,
    /// More headers, one `Name: value` a line.
    #[schema(example = "Origin: https://mirror.example.com")]
    headers: Option<String>,
    /// `web-chat`: a JSON object merged under each request's body.
    #[schema(example = "{\"temporary\": true}")]
    body: Option<String>,
    /// The model that is asked when the caller names none.
    #[schema(example = "gpt-4o-mini")]
    default_model: Option<String>,
    /// The models that callers can name, with commas between.
    #[schema(example = "a,b")]
    models: Option<String>,
    /// `PUT` alone: `false` keeps it untried.
    #[schema(example = true)]
    pub test: Option<bool>,
    /// `POST /api/upstream/read` alone: whether the settings come back in clear text, to be given to a platform.
    #[schema(example = false)]
    pub values: Option<bool>,
}

/// What a request says.
pub struct Read {
    /// The settings.
    pub group: UpstreamGroup,
    /// What was left out of the text.
    pub notes: Vec<Note>,
    /// The form and the length of the text.
    pub form: Option<(Form, usize)>,
}

impl UpstreamRequest {
    /// The fields by their settings.
    fn fields(&self) -> [(&'static str, Option<&str>); 8] {
        [
            (UPSTREAM_URL.name, self.url.as_deref()),
            (UPSTREAM_PROTOCOL.name, self.protocol.as_deref()),
            (UPSTREAM_API_KEY.name, self.api_key.as_deref()),
            (UPSTREAM_COOKIE.name, self.cookie.as_deref()),
            (UPSTREAM_HEADERS.name, self.headers.as_deref()),
            (UPSTREAM_BODY.name, self.body.as_deref()),
            (DEFAULT_MODEL.name, self.default_model.as_deref()),
            (MODELS.name, self.models.as_deref()),
        ]
    }

    fn text(&self) -> Option<&str> {
        self.pasted.as_deref().filter(|text| !text.trim().is_empty())
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.text().is_none() && self.fields().iter().all(|(_, value)| value.is_none())
    }

    /// What it says, over what is kept.
    ///
    /// # Errors
    /// Why the text is of no use.
    pub fn read(&self, kept: &KeptGroup) -> Result<Read, Mistake> {
        let imported = self.text().map(paste::import).transpose()?;
        let (mut group, notes, form) = match imported {
            Some((imported, form)) => {
                (imported.group, imported.notes, Some((form, self.text().map_or(0, str::len))))
            }
            None => (UpstreamGroup::default(), Vec::new(), None),
        };
        // A whole request says all that it needs; but its one question does not tell which models there are.
        let is_whole = group.get(UPSTREAM_URL.name).is_some();
        let fields = self.fields();
        fields.iter().for_each(|(name, value)| value.iter().for_each(|value| group.set(name, value)));
        let is_given = |name: &str| fields.iter().any(|(field, value)| *field == name && value.is_some());
        group.completed_by(&open_group(kept), |name| !is_given(name) && (!is_whole || name == MODELS.name));
        Ok(Read { group, notes, form })
    }

    /// The settings that it says, over what is kept.
    ///
    /// # Errors
    /// Why the text is of no use.
    pub fn group(&self, kept: &KeptGroup) -> Result<UpstreamGroup, Error> {
        let read = self
            .read(kept)
            .map_err(|mistake| Error::new(Kind::InvalidRequest, mistake.what).hinted(mistake.advice))?;
        Ok(read.group)
    }
}
