//! `completions`: a script that lets a shell complete the program's commands and flags.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use clap_complete::{Shell, generate};

use super::output::say;
use super::{command, fail};

const SHELLS: [(&str, Shell); 4] =
    [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish), ("powershell", Shell::PowerShell)];

/// The command and its argument.
pub fn completions_command() -> Command {
    Command::new("completions")
        .about("Print a script that completes commands and flags in a shell")
        .after_help(
            "bash:        mirrorgate completions bash > ~/.local/share/bash-completion/completions/mirrorgate\n\
             zsh:         mirrorgate completions zsh > ~/.zfunc/_mirrorgate, with ~/.zfunc in fpath\n\
             fish:        mirrorgate completions fish > ~/.config/fish/completions/mirrorgate.fish\n\
             powershell:  mirrorgate completions powershell | Out-String | Invoke-Expression, in $PROFILE",
        )
        .arg(
            Arg::new("shell")
                .required(true)
                .value_name("SHELL")
                .value_parser(PossibleValuesParser::new(SHELLS.map(|(name, _)| name)))
                .help("The shell"),
        )
}

/// Prints the script.
pub fn completions(matches: &ArgMatches) -> ExitCode {
    let asked = matches.get_one::<String>("shell").map(String::as_str);
    let Some((_, shell)) = SHELLS.into_iter().find(|(name, _)| Some(*name) == asked) else {
        return ExitCode::from(2);
    };
    let mut script = Vec::new();
    generate(shell, &mut command(), "mirrorgate", &mut script);
    match say(String::from_utf8_lossy(&script)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, format!("error: the script cannot be written: {error}")),
    }
}
