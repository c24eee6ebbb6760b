//! Suggestions for misspelt names.

/// Returns the most similar name, if one is similar enough.
pub(super) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// Longer names are not compared: that takes long.
    const BYTES_MAX: usize = 256;
    if wrong.len() > BYTES_MAX {
        return None;
    }
    names
        .into_iter()
        .filter(|name| *name != wrong && name.len() <= BYTES_MAX)
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= wrong.len().max(name.len()).div_ceil(3))
        // The names have nothing in common but their length.
        .filter(|(distance, name)| *distance < name.len())
        .min()
        .map(|(_, name)| name)
}

/// Returns `did you mean ...?`, or the list of names.
pub(crate) fn help<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str> + Clone,
    there_are: &str,
) -> Option<String> {
    if let Some(name) = nearest(wrong, names.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let names = list(names);
    (!names.is_empty()).then(|| format!("{there_are}: {names}"))
}

/// Returns the names in quotes, separated by commas.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Returns a text of the manifest in quotes, escaped and shortened.
pub(crate) fn quote(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{}`", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_similar_name_is_suggested() {
        let keys = ["mailbox", "instances", "use"];
        assert_eq!(nearest("instance", keys), Some("instances"));
        assert_eq!(nearest("uses", keys), Some("use"));
        assert_eq!(nearest("colour", keys), None);
    }
}
