//! `dlq export`: writes letters as lines of JSON or as test cases. The letters stay in their
//! queues.

use super::access::DlqAccess;
use super::args::{BoundArgs, PickArgs, not_found};
use super::atomic_file::AtomicFile;
use super::{Problem, print_clean};
use crate::app::Plan;
use crate::cli::{DONE, FAILED, ManifestArgs};
use crate::dead_letters::{DlqAction, DlqReport, LetterView, TestCase, TestCases};
use crate::stderr::error_line;

#[derive(clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    pub(super) manifest: ManifestArgs,
    /// Only this service
    #[arg(long, value_name = "LABEL")]
    pub(super) service: Option<String>,
    #[command(flatten)]
    pick: PickArgs,
    /// Export at most this many letters of a service [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write test cases in TOML: the message, its failure, and the expected result, which you
    /// fill in
    #[arg(long)]
    as_test: bool,
    /// Write to this file, completely or not at all [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// With --out: replace an existing file
    #[arg(long, requires = "out")]
    force: bool,
    #[command(flatten)]
    bounds: BoundArgs,
}

impl Export {
    pub(super) async fn run(&self, access: &DlqAccess, plan: &Plan) -> Result<u8, Problem> {
        // Before reading any letter.
        let out = self.out.as_deref();
        let file = out.map(|path| AtomicFile::new(path, self.force));
        let file = file.transpose()?;
        let selection = self.pick.selection();
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut letters = Vec::new();
        let mut cut = Vec::new();
        let find = DlqAction::Find {
            selection: selection.clone(),
            limit,
            payload_bytes_max: usize::MAX,
            bounds: self.bounds.bounds(),
        };
        for (service, report) in access.read_each(self.service.as_deref(), &find).await? {
            let DlqReport::Found(found) = report else {
                return Err(Problem::wrong_report());
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
        let missing = not_found(&selection).filter(|_| letters.is_empty());
        if let Some(missing) = missing {
            error_line!("error: {missing}");
        }
        for service in &cut {
            error_line!("error: {service}: not all letters were read: see --scan");
        }
        let failed = missing.is_some() || !cut.is_empty();
        Ok(if failed { FAILED } else { DONE })
    }

    fn write(
        &self,
        plan: &Plan,
        file: Option<AtomicFile<'_>>,
        text: &str,
        letters: usize,
    ) -> Result<(), Problem> {
        let Some(file) = file else {
            print_clean(plan, text);
            return Ok(());
        };
        let path = file.path().display().to_string();
        file.write(plan.redactor.clean(text).as_bytes())?;
        error_line!("{path}: {letters} letters");
        Ok(())
    }
}

fn lines(letters: &[LetterView]) -> String {
    let mut text = String::new();
    for letter in letters {
        text.push_str(&serde_json::to_string(letter).expect("a view is plain data"));
        text.push('\n');
    }
    text
}

fn cases(letters: &[LetterView]) -> String {
    let cases = letters.iter().map(TestCase::from_letter).collect();
    TestCases { cases }.to_string()
}
