//! Content negotiation: whether a caller takes JSON (RFC 9110, section 12.5.1).

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// Whether the header Accept allows JSON. Without the header, everything is allowed.
pub(super) fn takes_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|range| !range.trim().is_empty())
        .peekable();
    if ranges.peek().is_none() {
        return true;
    }
    // The most specific range decides.
    let decides = ranges.filter_map(|range| Some((specificity(range)?, is_wanted(range))));
    decides
        .max_by_key(|(specificity, _)| *specificity)
        .is_some_and(|(_, wanted)| wanted)
}

/// How closely a range names JSON; `None` if it is about other types.
fn specificity(range: &str) -> Option<u8> {
    let essence = range.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/json" => Some(2),
        "application/*" => Some(1),
        "*/*" => Some(0),
        _ => None,
    }
}

/// Whether the weight of a range is above zero.
fn is_wanted(range: &str) -> bool {
    let mut parameters = range.split(';').skip(1);
    let weight = parameters.find_map(|it| {
        let (name, value) = it.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("q")
            .then(|| value.trim().to_owned())
    });
    weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        takes_json(&headers)
    }

    #[test]
    fn json_is_taken_by_name_or_by_a_range() {
        for accepted in [
            &[][..],
            &[""],
            &["*/*"],
            &["application/json"],
            &["text/html, Application/JSON;q=0.1"],
            &["text/html", "application/*; q=1"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
        ] {
            assert!(takes(accepted), "{accepted:?}");
        }
        for refused in [
            &["text/html"][..],
            &["application/xml"],
            &["application/json;q=0, */*"],
            &["application/json;q=x"],
            &["application/*;q=0.0"],
        ] {
            assert!(!takes(refused), "{refused:?}");
        }
    }
}
