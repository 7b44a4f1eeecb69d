//! `import-curl`: a browser's "Copy as cURL" line, made into settings.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use clap::ArgMatches;

use super::fail;
use super::output::say;
use crate::paste;

/// Reads the text, prints the settings as lines for `.env`, and says on standard error what was left
/// out. Nothing is sent anywhere.
pub fn import_curl(matches: &ArgMatches) -> ExitCode {
    let file = matches.get_one::<String>("file").filter(|file| *file != "-");
    let text = match file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}")),
        None => {
            if std::io::stdin().is_terminal() {
                eprintln!("paste the copied text, then press Ctrl-D (Windows: Ctrl-Z and Enter)");
            }
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map(|_| text).map_err(|error| format!("standard input cannot be read: {error}"))
        }
    };
    let text = match text {
        Ok(text) => text,
        Err(why) => {
            return fail(2, format!("error: {why}\n  hint: give a file, or the text on standard input"));
        }
    };
    let outcome = paste::import(&text).and_then(|(imported, _)| Ok((imported.env()?, imported.notes)));
    match outcome {
        Ok(((env, unwritten), notes)) => {
            for note in notes.iter().chain(&unwritten) {
                eprintln!("note: {}", note.text());
            }
            eprintln!("note: these lines hold your login: put them into `.env`, and show them to nobody");
            match say(env) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(1, format!("error: the settings cannot be written: {error}")),
            }
        }
        Err(mistake) => fail(2, format!("error: {}\n  hint: {}", mistake.what, mistake.advice)),
    }
}
