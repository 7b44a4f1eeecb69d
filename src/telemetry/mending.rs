//! What had to be mended, skipped, held back or tried again to answer a question: one line of the log
//! and one counter for each kind, and never a word of what was said.

use std::sync::atomic::{AtomicU64, Ordering};

use log::Level;

macro_rules! mendings {
    ($( $(#[$doc:meta])* $variant:ident, $name:literal, $level:ident, $what:literal; )*) => {
        /// A kind of mending.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mending {
            $( $(#[$doc])* $variant, )*
        }

        impl Mending {
            /// Every kind.
            pub const ALL: &'static [Mending] = &[$(Mending::$variant),*];

            /// Its name in the metrics.
            pub fn name(self) -> &'static str {
                match self { $( Mending::$variant => $name, )* }
            }

            /// What was done and why, for a person.
            fn what(self) -> &'static str {
                match self { $( Mending::$variant => $what, )* }
            }

            fn level(self) -> Level {
                match self { $( Mending::$variant => Level::$level, )* }
            }
        }
    };
}

mendings! {
    /// A piece of an answer was written anew.
    PieceMended, "piece_mended", Info,
        "pieces of the upstream's answer lacked what clients need, or had it in a form that they cannot read, and were written anew";
    /// A tool call was held back.
    ToolCallHeld, "tool_call_held", Info,
        "tool calls did not come one after the other as OpenAI sends them, and were held back until each was whole";
    /// The answer is of another form than was asked for.
    FormChanged, "form_changed", Info,
        "the upstream answered in one piece where a stream was asked for, or as a stream where it was not";
    /// The answer was not declared as what it is.
    MediaType, "media_type", Info,
        "the upstream declared its answer as text or a web page, which it is not";
    /// The answer was compressed.
    Decompressed, "decompressed", Info,
        "the upstream compressed its answer, which was not asked for";
    /// An interim answer was left out.
    InterimLeftOut, "interim_left_out", Info,
        "an interim answer of the upstream's was left out, and the final one followed";
    /// Something that is not of the protocol was left out.
    Skipped, "skipped", Warn,
        "parts of the upstream's answer that are not of its protocol were skipped";
    /// Something of the protocol could not be read.
    Unreadable, "unreadable", Warn,
        "pieces of the upstream's answer could not be read, so words are missing unless it settles the whole text";
    /// Markup that is not the answer was left out.
    MarkupLeftOut, "markup_left_out", Info,
        "cards and results of the upstream's own tools were left out of the answer";
    /// Markup that did not end stayed words.
    MarkupUnclosed, "markup_unclosed", Warn,
        "a card in the upstream's answer did not end, and went on as words together with what followed it";
    /// The upstream settled its answer otherwise than it had said it.
    SettledOtherwise, "settled_otherwise", Warn,
        "the upstream's final text was shorter than what it had said, or in other words: what it had said stands";
    /// Tools were offered in words.
    ToolsEmulated, "tools_emulated", Info,
        "the upstream knows no tools: they were offered to the model in its prompt, and its calls are read out of its words, which is an emulation";
    /// The model was asked for a call of such a tool once more.
    ToolCallAskedAgain, "tool_call_asked_again", Warn,
        "what looked like a call of an emulated tool could not be read: the model was asked to write it once more, which is a question of its own";
    /// What looked like a call of such a tool stayed words.
    ToolCallUnreadable, "tool_call_unreadable", Warn,
        "what looked like a call of an emulated tool could not be read, or named no tool that was offered, and went on as words";
    /// The answer ended without its protocol's last sign.
    EndGuessed, "end_guessed", Info,
        "the upstream said why it stopped, then neither ended its answer nor went on: it was taken for complete";
    /// A question was asked again without a parameter, or with it under another name.
    ParameterChanged, "parameter_changed", Warn,
        "the upstream refused a parameter: it was left out or renamed, and the question asked again";
    /// A question was sent again on another connection.
    ConnectionReplaced, "connection_replaced", Info,
        "the upstream had closed a connection of an earlier question: the question was sent on a new one";
    /// Another upstream was asked.
    OtherUpstreamAsked, "other_upstream_asked", Warn,
        "the upstream did no work on the question, and another one was asked";
}

const KINDS: usize = Mending::ALL.len();

/// The process's counts.
static COUNTS: [AtomicU64; KINDS] = [const { AtomicU64::new(0) }; KINDS];

/// How often the process did each.
pub fn counts() -> impl Iterator<Item = (Mending, u64)> {
    Mending::ALL.iter().map(|mending| (*mending, COUNTS[*mending as usize].load(Ordering::Relaxed)))
}

/// Counts and logs that this was done so many times for a question to this upstream.
pub fn tell(mending: Mending, upstream: &str, times: u32) {
    COUNTS[mending as usize].fetch_add(times.into(), Ordering::Relaxed);
    log::log!(mending.level(), upstream, mending = mending.name(), times; "{}", mending.what());
}

/// What was mended of one answer so far.
#[derive(Debug, Clone, Default)]
pub struct Mendings([u32; KINDS]);

impl Mendings {
    /// Notes one more.
    pub fn note(&mut self, mending: Mending) {
        self.add(mending, 1);
    }

    /// Notes some more.
    pub fn add(&mut self, mending: Mending, times: usize) {
        let count = &mut self.0[mending as usize];
        *count = count.saturating_add(u32::try_from(times).unwrap_or(u32::MAX));
    }

    /// How often this was noted.
    pub fn of(&self, mending: Mending) -> u32 {
        self.0[mending as usize]
    }

    /// Tells all of it, and begins anew.
    pub fn tell(&mut self, upstream: &str) {
        let noted = std::mem::take(self);
        let kinds = Mending::ALL.iter().filter(|mending| noted.of(**mending) > 0);
        kinds.for_each(|mending| tell(*mending, upstream, noted.of(*mending)));
    }
}
