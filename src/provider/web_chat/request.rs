//! A prompt as a web chat's request: all that is said in one text.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::domain::chat::{Message, Prompt, Role};

/// The request's body: our defaults, the user's switches over them, the question over both.
#[derive(Serialize)]
pub struct Request<'a> {
    #[serde(serialize_with = "written_out")]
    message: AsOneText<'a>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl<'a> Request<'a> {
    /// The request of a prompt, with these switches of the user's.
    pub fn new(prompt: &'a Prompt, switches: &Map<String, Value>) -> Self {
        let mut fields = Map::new();
        fields.insert("modelMode".into(), "auto".into());
        fields.extend(switches.clone());
        fields.shift_remove("message");
        if let Some(model) = &prompt.model {
            fields.insert("modelName".into(), model.clone().into());
        }
        if let Some(thread) = &prompt.thread {
            fields.insert("parentResponseId".into(), thread.last_response.clone().into());
        }
        Request { message: AsOneText(&prompt.chat.messages), fields }
    }
}

fn written_out<S: Serializer>(text: &AsOneText, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(text)
}

/// The one text that a web chat takes: the messages with a blank line between. Where answers are
/// among them, the mirror has not seen the conversation before, so it is told who said what.
struct AsOneText<'a>(&'a [Message]);

impl fmt::Display for AsOneText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_answers = self.0.iter().any(|message| message.role == Role::Assistant);
        let task = "Continue this conversation with the assistant's next answer, and write nothing else.";
        let (system, spoken): (Vec<&Message>, Vec<&Message>) =
            self.0.iter().partition(|message| message.role == Role::System);
        let instructions = system.iter().map(|message| ("", spoken_text(message)));
        let spoken = spoken.iter().map(|message| match message.role {
            Role::Assistant => ("Assistant: ", spoken_text(message)),
            Role::User | Role::Tool if has_answers => ("User: ", spoken_text(message)),
            Role::User | Role::Tool | Role::System => ("", spoken_text(message)),
        });
        let parts = instructions.chain(has_answers.then_some(("", task.into()))).chain(spoken);
        for (index, (who, what)) in parts.enumerate() {
            f.write_str(if index == 0 { "" } else { "\n\n" })?;
            f.write_str(who)?;
            f.write_str(&what)?;
        }
        Ok(())
    }
}

/// What a message says, with the tools that it called, or whose result it is, in words.
fn spoken_text(message: &Message) -> Cow<'_, str> {
    if message.role == Role::Tool {
        let name = message.answers.as_ref().and_then(|(_, name)| name.as_ref());
        let name = name.map(|name| format!(" {name}")).unwrap_or_default();
        return format!("The result of the tool{name}: {}", message.text()).into();
    }
    if message.tool_calls.is_empty() {
        return message.text();
    }
    let calls = message.tool_calls.iter().map(|call| format!("Called {} with {}", call.name, call.arguments));
    let text = message.text().into_owned();
    Some(text).filter(|text| !text.is_empty()).into_iter().chain(calls).collect::<Vec<_>>().join("\n").into()
}
