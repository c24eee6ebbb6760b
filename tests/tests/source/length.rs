//! A file holds one idea, so it is short.

use crate::files::{ROOMS, below};

/// Maximum lines of a source file.
const LINES_MAX: usize = 500;

#[test]
fn no_source_file_has_more_than_500_lines() {
    let files = ROOMS.iter().flat_map(|room| below(room));
    let long: Vec<String> = files
        .filter(|file| file.is_rust() && file.text.lines().count() > LINES_MAX)
        .map(|file| file.path)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}
