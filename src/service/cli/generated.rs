//! Texts that are made from the declaration of the command line: completions of shells, and manual
//! pages.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};

/// The options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Completions {
    /// Shell that completes the commands
    shell: Shell,
}

/// The options of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Folder to write the pages to; it is created
    folder: PathBuf,
}

const AFTER_HELP: &str = "\
Examples:
  headcount completions bash > ~/.local/share/bash-completion/completions/headcount
  headcount completions zsh > ~/.zfunc/_headcount      with ~/.zfunc in $fpath
  headcount completions fish > ~/.config/fish/completions/headcount.fish";

/// Returns the script by which a shell completes the commands.
pub(super) fn completions(arguments: &Completions) -> String {
    let mut command = super::Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "headcount", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for `headcount` and one for each of its commands, and returns their number in words.
/// An error is a sentence.
pub(super) fn man(arguments: &Man) -> Result<String, String> {
    let folder = &arguments.folder;
    let failed = |error| format!("failed to write to {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(failed)?;
    let pages = write(folder).map_err(failed)?;
    Ok(format!("wrote {pages} pages to {}\n", folder.display()))
}

fn write(folder: &Path) -> std::io::Result<usize> {
    let command: Command = super::Arguments::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder)?;
    let pages = fs::read_dir(folder)?.flatten();
    let is_page = |name: &str| name.starts_with("headcount") && name.ends_with(".1");
    Ok(pages
        .filter(|page| page.file_name().to_str().is_some_and(is_page))
        .count())
}
