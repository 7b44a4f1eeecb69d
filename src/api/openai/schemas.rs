//! The chat completion API in the full document, for those who generate a client from it.
//!
//! The bodies themselves go through unread where the upstream speaks the same protocol, so these types
//! are never made. Fields that are not listed are passed on as well.
//! Source: <https://platform.openai.com/docs/api-reference/chat/create>.

#![expect(dead_code, reason = "they are there for the document")]

use serde::Serialize;
use utoipa::ToSchema;

/// A request for a completion. Fields that are not listed here go to the upstream as well.
#[derive(Serialize, ToSchema)]
pub struct CompletionBody {
    /// Name of the model; without it the default one answers.
    #[schema(example = "gpt-4o")]
    model: Option<String>,
    /// The conversation, the newest message last.
    messages: Vec<CompletionMessage>,
    /// Whether the answer comes as server-sent events.
    #[schema(example = false)]
    stream: Option<bool>,
    /// What a stream tells beside the answer.
    stream_options: Option<StreamOptions>,
    /// Randomness of the answer, from 0 (focused) to 2 (varied).
    #[schema(example = 0.7)]
    temperature: Option<f64>,
    /// The share of the likeliest words that are chosen from.
    #[schema(example = 1.0)]
    top_p: Option<f64>,
    /// The most tokens to generate.
    #[schema(example = 1000)]
    max_tokens: Option<u32>,
    /// The most tokens to generate, in the newer word for `max_tokens`.
    #[schema(example = 1000)]
    max_completion_tokens: Option<u32>,
    /// How many answers.
    #[schema(example = 1)]
    n: Option<u32>,
    /// A text, or several, at which the answer ends.
    stop: Option<Stop>,
    /// Functions that the model may call.
    tools: Option<Vec<CompletionTool>>,
    /// `auto`, `none`, `required`, or which function the model must call.
    tool_choice: Option<ToolChoice>,
    /// Whether the model may call several functions at once.
    #[schema(example = true)]
    parallel_tool_calls: Option<bool>,
    /// The form of the answer, such as JSON by a schema.
    #[schema(value_type = Option<Object>)]
    response_format: Option<()>,
    /// Makes answers repeatable where the model can.
    #[schema(example = 1)]
    seed: Option<i64>,
    /// From -2 to 2: how much a word that was said already is avoided.
    #[schema(example = 0.0)]
    presence_penalty: Option<f64>,
    /// From -2 to 2: how much a word is avoided for each time that it was said.
    #[schema(example = 0.0)]
    frequency_penalty: Option<f64>,
    /// How long a model thinks that can, such as `low`.
    #[schema(example = "low")]
    reasoning_effort: Option<String>,
    /// Who asks, for the upstream.
    #[schema(example = "user-1")]
    user: Option<String>,
}

/// A message of the conversation.
#[derive(Serialize, ToSchema)]
pub struct CompletionMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    #[schema(example = "user")]
    role: String,
    /// What is said; null where an assistant called functions instead.
    content: Option<MessageContent>,
    /// The name of who speaks.
    #[schema(example = "Ada")]
    name: Option<String>,
    /// The functions that the assistant called.
    tool_calls: Option<Vec<CompletionToolCall>>,
    /// Which call a message of the role `tool` answers.
    #[schema(example = "call_1")]
    tool_call_id: Option<String>,
}

/// What a message says.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    /// A text.
    #[schema(example = "Hello")]
    Text(String),
    /// Texts and images.
    Parts(Vec<ContentPart>),
}

/// A part of a message: a text or an image. Other types, such as `input_audio`, go through as well.
#[derive(Serialize, ToSchema)]
pub struct ContentPart {
    /// `text` or `image_url`.
    #[schema(example = "text")]
    r#type: String,
    /// The text of a part of the type `text`.
    #[schema(example = "What is this?")]
    text: Option<String>,
    /// The image of a part of the type `image_url`.
    image_url: Option<ImageUrl>,
}

/// Where an image is.
#[derive(Serialize, ToSchema)]
pub struct ImageUrl {
    /// Its address, or the image itself as a `data:` URL.
    #[schema(example = "https://example.com/cat.png")]
    url: String,
    /// How closely it is looked at: `low`, `high` or `auto`.
    #[schema(example = "auto")]
    detail: Option<String>,
}

/// A call of a function.
#[derive(Serialize, ToSchema)]
pub struct CompletionToolCall {
    /// Its id, for the message that answers it.
    #[schema(example = "call_1")]
    id: String,
    /// Always `function`.
    #[schema(example = "function")]
    r#type: String,
    /// The function and its arguments.
    function: FunctionCall,
}

/// A function that is called.
#[derive(Serialize, ToSchema)]
pub struct FunctionCall {
    /// The function's name.
    #[schema(example = "weather")]
    name: String,
    /// Its arguments as JSON in a text.
    #[schema(example = r#"{"city": "Paris"}"#)]
    arguments: String,
}

/// A function that the model may call.
#[derive(Serialize, ToSchema)]
pub struct CompletionTool {
    /// Always `function`.
    #[schema(example = "function")]
    r#type: String,
    /// The function.
    function: FunctionDescription,
}

/// What a model is told of a function.
#[derive(Serialize, ToSchema)]
pub struct FunctionDescription {
    /// Its name.
    #[schema(example = "weather")]
    name: String,
    /// What it does and when to call it.
    #[schema(example = "Tells the weather of a city")]
    description: Option<String>,
    /// What it takes, as a JSON Schema.
    #[schema(value_type = Option<Object>)]
    parameters: Option<()>,
    /// Whether the arguments must fit the schema.
    #[schema(example = false)]
    strict: Option<bool>,
}

/// Which function the model calls.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `auto`, `none` or `required`.
    #[schema(example = "auto")]
    Word(String),
    /// One function by its name.
    #[schema(value_type = Object)]
    Named(()),
}

/// Where an answer ends.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// At this text.
    #[schema(example = "END")]
    One(String),
    /// At the first of these.
    Several(Vec<String>),
}

/// What a stream tells beside the answer.
#[derive(Serialize, ToSchema)]
pub struct StreamOptions {
    /// Whether its last chunk tells what the answer cost.
    #[schema(example = true)]
    include_usage: Option<bool>,
}

/// A completion. The upstream may add fields of its own.
#[derive(Serialize, ToSchema)]
pub struct Completion {
    /// Its id.
    #[schema(example = "chatcmpl-123")]
    id: Option<String>,
    /// Always `chat.completion`.
    #[schema(example = "chat.completion")]
    object: Option<String>,
    /// When it was made, in seconds since 1970.
    #[schema(example = 1_795_000_000_i64)]
    created: Option<i64>,
    /// The model that answered.
    #[schema(example = "gpt-4o")]
    model: Option<String>,
    /// The answers, mostly one.
    choices: Vec<CompletionChoice>,
    /// What it cost.
    usage: Option<CompletionUsage>,
}

/// An answer.
#[derive(Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Its number.
    #[schema(example = 0)]
    index: Option<u32>,
    /// What is said.
    message: CompletionMessage,
    /// Why the model stopped: `stop`, `length`, `tool_calls` or another word of the upstream's.
    #[schema(example = "stop")]
    finish_reason: Option<String>,
}

/// The tokens that a completion cost.
#[derive(Serialize, ToSchema)]
pub struct CompletionUsage {
    /// Tokens of the messages.
    #[schema(example = 12)]
    prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[schema(example = 34)]
    completion_tokens: Option<u64>,
    /// Both.
    #[schema(example = 46)]
    total_tokens: Option<u64>,
}

/// One event of a stream.
#[derive(Serialize, ToSchema)]
pub struct EventBody {
    /// A chunk of the completion in JSON, or `[DONE]`.
    #[schema(example = "[DONE]")]
    data: String,
}
