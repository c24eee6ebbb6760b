//! Random changes of a valid manifest never make the loader panic.

use super::*;

#[test]
fn a_valid_manifest_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    fs::write(&path, VALID).unwrap();
    let plan = load(&path, Vec::new(), None).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(plan.name(), "hello");
    assert_eq!(plan.data(), folder.path().join("data"));
}

/// A change of a manifest's text.
#[derive(Debug, Clone)]
enum Change {
    Remove(usize, usize),
    Insert(usize, &'static str),
    Swap(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    const BITS: [&str; 24] = [
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "${",
        "}",
        "$${",
        "ü🧱",
        "\0",
        "://u:p@",
        "[[",
        "\"\"\"",
        "use = 1\n",
        "in = []\n",
        "config = 3\n",
        "\u{feff}",
        "1e999",
        "a.b.c.d = {}",
    ];
    let place = 0..VALID.len();
    prop_oneof![
        (place.clone(), 1..20usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (place.clone(), prop::sample::select(&BITS[..]))
            .prop_map(|(at, bit)| Change::Insert(at, bit)),
        // Swaps whole lines.
        (0..55usize, 0..55usize).prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

fn changed(text: &str, change: &Change) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    match change {
        Change::Remove(at, length) => {
            let at = (*at).min(characters.len());
            let end = (at + length).min(characters.len());
            characters.drain(at..end);
        }
        Change::Insert(at, bit) => {
            let at = (*at).min(characters.len());
            characters.splice(at..at, bit.chars());
        }
        Change::Swap(a, b) => {
            let mut lines: Vec<&str> = text.lines().collect();
            if a.max(b) < &lines.len() {
                lines.swap(*a, *b);
            }
            return lines.join("\n");
        }
    }
    characters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_manifest_makes_the_loader_panic(changes in prop::collection::vec(change(), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.toml");
        let text = changes.iter().fold(VALID.to_owned(), |text, change| changed(&text, change));
        fs::write(&path, &text).unwrap();
        if let Err(report) = load(&path, Vec::new(), None) {
            prop_assert!(!report.problems().is_empty());
            let rendered = report.render(true);
            prop_assert!(rendered.contains(report.problems()[0].code));
            for problem in report.problems() {
                prop_assert!(problem.line >= 1 && problem.line <= text.lines().count() + 1);
            }
        }
        // The same text as an overlay.
        let base = folder.path().join("base.toml");
        fs::write(&base, VALID).unwrap();
        let _either = load(&base, vec![path], None).map_err(|report| report.render(false));
    }
}
