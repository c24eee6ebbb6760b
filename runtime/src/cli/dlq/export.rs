//! `dlq export`: letters for programs, a line of JSON each, or as test cases. They stay in
//! their queues.

use super::access::DlqAccess;
use super::args::{BoundArgs, PickArgs, missing};
use super::atomic_file::{self, NewFile};
use super::{Problem, print_clean};
use crate::app::Plan;
use crate::cli::{DONE, FAILED, ManifestArgs};
use crate::dead_letters::{LetterView, TestCase, TestCases};

#[derive(clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// Only this service's
    #[arg(long, value_name = "LABEL")]
    pub(super) service: Option<String>,
    #[command(flatten)]
    pick: PickArgs,
    /// At most so many letters of a service
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write test cases, in TOML: the message, what happened, and what is expected, for you
    /// to complete
    #[arg(long)]
    as_test: bool,
    /// Write to this file, which is there whole or not at all, and not to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// With --out: replace a file that is there
    #[arg(long, requires = "out")]
    force: bool,
    #[command(flatten)]
    bounds: BoundArgs,
}

impl Export {
    pub(super) async fn run(&self, bench: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        // Before anything is looked at.
        let file = self
            .out
            .as_deref()
            .map(|path| atomic_file::new(path, self.force));
        let file = file.transpose()?;
        let selection = self.pick.selection();
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut letters = Vec::new();
        let mut cut = Vec::new();
        for service in bench.services(self.service.as_deref()) {
            let bounds = self.bounds.bounds();
            let whole = usize::MAX;
            let found = bench.find(&service, &selection, limit, whole, bounds).await;
            let found = match found {
                Ok(found) => found,
                // Nothing was ever given up there.
                Err(problem) if problem.no_queue && self.service.is_none() => continue,
                Err(problem) => return Err(problem),
            };
            if found.more && found.letters.len() < limit {
                cut.push(service);
            }
            letters.extend(found.letters);
        }
        let text = match self.as_test {
            true => cases(&letters),
            false => lines(&letters),
        };
        self.write(plan, file, &text, letters.len())?;
        let missing = missing(&selection).filter(|_| letters.is_empty());
        if let Some(missing) = missing {
            eprintln!("error: {missing}");
        }
        for service in &cut {
            eprintln!("error: {service}: not all letters were looked at: see --scan");
        }
        let failed = missing.is_some() || !cut.is_empty();
        Ok(if failed { FAILED } else { DONE })
    }

    fn write(
        &self,
        plan: &Plan,
        file: Option<NewFile<'_>>,
        text: &str,
        letters: usize,
    ) -> Result<(), Problem> {
        let Some(file) = file else {
            print_clean(plan, text);
            return Ok(());
        };
        let path = file.path().display().to_string();
        file.write(plan.redactor.clean(text).as_bytes())?;
        eprintln!("{path}: {letters} letters");
        Ok(())
    }
}

fn lines(letters: &[LetterView]) -> String {
    let mut text = String::new();
    for letter in letters {
        text.push_str(&serde_json::to_string(letter).expect("what is shown is plain data"));
        text.push('\n');
    }
    text
}

fn cases(letters: &[LetterView]) -> String {
    let cases = letters.iter().map(TestCase::of).collect();
    TestCases { cases }.to_string()
}
