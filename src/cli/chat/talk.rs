//! A talk at a terminal: lines with a history, and words that begin with `/` for the program itself.
//! Ctrl-C gives an answer up and leaves the talk open.

use std::process::ExitCode;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::super::output::say;
use super::super::{described, fail};
use super::{Terms, answer};
use crate::gateway::Gateway;

const HELP: &str = "\
/model [NAME]  ask this model from now on; without a name, list the models
/new           begin a new conversation
/help          this text
/quit          end, as Ctrl-D does
Ctrl-C stops an answer; arrow keys bring earlier lines back; a line that is to begin with / begins with //
";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Question(&'a str),
    Model(Option<&'a str>),
    New,
    Help,
    Quit,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Line::Nothing } else { Line::Question(line) };
        };
        if command.starts_with('/') {
            return Line::Question(command);
        }
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match word {
            "model" => Line::Model(Some(rest.trim()).filter(|name| !name.is_empty())),
            "new" => Line::New,
            "help" | "?" => Line::Help,
            "quit" | "exit" | "q" => Line::Quit,
            _ => Line::Unknown(word),
        }
    }
}

/// Talks until the person ends it.
pub(super) async fn talk(gateway: &Gateway, mut terms: Terms) -> ExitCode {
    let mut editor = match DefaultEditor::new() {
        Ok(editor) => editor,
        Err(error) => return fail(1, format!("error: the terminal cannot be used: {error}")),
    };
    let told = say(format!("{}; /help lists commands, /quit ends\n", gateway.upstream_name()));
    if told.is_err() {
        return ExitCode::SUCCESS;
    }
    loop {
        let line;
        (editor, line) = match read(editor).await {
            Some(read) => read,
            None => return fail(1, "error: the terminal cannot be read any more"),
        };
        let line = match line {
            Ok(line) => line,
            // As in a shell, it drops the line.
            Err(ReadlineError::Interrupted) => {
                eprintln!("/quit or Ctrl-D ends");
                continue;
            }
            Err(ReadlineError::Eof) => return ExitCode::SUCCESS,
            Err(error) => return fail(1, format!("error: the terminal cannot be read: {error}")),
        };
        match Line::of(&line) {
            Line::Nothing => {}
            Line::Question(question) => ask(gateway, &mut terms, question).await,
            Line::Model(None) => list_models(gateway, &terms).await,
            Line::Model(Some(name)) => {
                terms.model = Some(name.into());
                let _ = say(format!("{name} is asked from now on\n"));
            }
            Line::New => {
                terms.conversation = None;
                let _ = say("a new conversation begins\n");
            }
            Line::Help => {
                let _ = say(HELP);
            }
            Line::Quit => return ExitCode::SUCCESS,
            Line::Unknown(word) => eprintln!("there is no command /{word}; /help lists them"),
        }
    }
}

/// Reads a line on a thread of its own, since the terminal blocks.
async fn read(mut editor: DefaultEditor) -> Option<(DefaultEditor, rustyline::Result<String>)> {
    let reading = tokio::task::spawn_blocking(move || {
        let line = editor.readline("> ");
        if let Ok(line) = &line
            && !line.trim().is_empty()
        {
            // A line that is not remembered is only not offered again.
            let _ = editor.add_history_entry(line.as_str());
        }
        (editor, line)
    });
    reading.await.ok()
}

/// Asks one question of the talk; Ctrl-C gives it up.
async fn ask(gateway: &Gateway, terms: &mut Terms, question: &str) {
    let outcome = tokio::select! {
        outcome = answer(gateway, terms.question(question.into())) => outcome,
        // From the first time on, Ctrl-C ends the process no more.
        _ = tokio::signal::ctrl_c() => {
            let _ = say("\n");
            eprintln!("[stopped]");
            return;
        }
    };
    match outcome {
        Ok(Some(told)) => {
            eprintln!("{}", told.line());
            terms.conversation = told.conversation.or(terms.conversation.take());
        }
        Ok(None) => {}
        Err(text) => eprintln!("{text}"),
    }
}

async fn list_models(gateway: &Gateway, terms: &Terms) {
    match gateway.models().await {
        Ok(models) => {
            let asked = terms.model.as_ref().or(models.default_model.as_ref());
            for model in &models.models {
                let mark = if asked == Some(&model.id) { '*' } else { ' ' };
                let _ = say(format!("{mark} {}\n", model.id));
            }
        }
        Err(error) => eprintln!("{}", described(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_question_unless_it_begins_with_one_slash() {
        for (line, expected) in [
            ("  ", Line::Nothing),
            (" What is 1/2? ", Line::Question("What is 1/2?")),
            ("//etc/passwd is what?", Line::Question("/etc/passwd is what?")),
            ("/model", Line::Model(None)),
            ("/model  gpt-4o ", Line::Model(Some("gpt-4o"))),
            ("/new", Line::New),
            ("/quit", Line::Quit),
            ("/help", Line::Help),
            ("/models", Line::Unknown("models")),
        ] {
            assert_eq!(Line::of(line), expected, "{line}");
        }
    }
}
