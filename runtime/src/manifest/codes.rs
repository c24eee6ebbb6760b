//! Error codes: stable names for documents and programs.

macro_rules! codes {
    ($(#[$doc:meta])* $list:ident: $($name:ident = $code:literal, $meaning:literal;)*) => {
        $(pub(super) const $name: &str = $code;)*

        $(#[$doc])*
        pub const $list: &[(&str, &str)] = &[$(($code, $meaning)),*];
    };
}

codes! {
    /// Every code of a problem with its meaning. A code never gets another meaning.
    CODES:
    UNREADABLE = "E001", "a file can't be read";
    SYNTAX = "E002", "the file is not TOML";
    VARIABLE = "E003", "a ${...} can't be filled in";
    UNKNOWN_KEY = "E010", "unknown key";
    MISSING_KEY = "E011", "a required key is missing";
    WRONG_TYPE = "E012", "the value has the wrong type";
    BAD_VALUE = "E013", "the value is out of range or not allowed";
    BAD_NAME = "E014", "not a valid label, port or topic";
    UNSUPPORTED = "E015", "not supported by this version or build";
    NOT_FOR_SOURCES = "E016", "the key has no effect on a source";
    UNKNOWN_SCHEME = "E020", "no transport has this URL scheme";
    BAD_URL = "E021", "the transport refuses the URL";
    NEEDS_TRANSPORT = "E022", "the transport lacks a guarantee that this needs";
    UNKNOWN_TYPE = "E030", "no service type has this name";
    BAD_CONFIG = "E031", "the service type refuses its config";
    UNKNOWN_SERVICE = "E032", "no service has this label";
    REPEATED_SERVICE = "E033", "a service is named twice, or in two groups";
    NEEDS_STORE = "E034", "the service type needs a store, and the service has none";
    UNKNOWN_LIMIT = "E035", "no limit has this name";
    UNKNOWN_PORT = "E040", "the service has no port of this name";
    UNWIRED_PORT = "E041", "a port is connected to no topic";
    SHORT_FORM = "E042", "the short form of wiring needs exactly one port";
    ONE_TOPIC = "E043", "a request goes to exactly one topic";
    UNFED_TOPIC = "E044", "a topic is read, but nothing feeds it";
    UNREAD_TOPIC = "E045", "a topic is fed, but nothing reads it";
    REPEATED_TOPIC = "E046", "a port names the same topic twice";
    UNUSED_TOPIC = "E047", "no service uses this topic";
    BLOCKING_CYCLE = "E048", "queues that reject can block each other";
    EXTERNAL_QUEUE = "E049", "an external queue feeds one input, which reads nothing else";
    OTHER_APPS_DATA = "E050", "the data folder holds the positions of another app";
    NO_REPLY = "E051", "a request is read by services that never reply";
    SAME_ADDRESS = "E052", "two listeners have the same address";
    RUNTIME_TOPIC = "E053", "only the runtime publishes to topics that begin with brickwork";
}

codes! {
    /// Every code of a warning with its meaning. A manifest with warnings starts.
    WARNINGS:
    NO_EFFECT = "W001", "a setting has no effect";
    SPLIT_GROUP = "W002", "`--only` splits a group over processes";
    ASK_RING = "W003", "requests in a ring can wait for each other";
}

#[cfg(test)]
mod tests {
    use super::{CODES, WARNINGS};

    #[test]
    fn codes_are_unique_and_in_order() {
        for (codes, letter) in [(CODES, 'E'), (WARNINGS, 'W')] {
            assert!(codes.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let fits = |code: &str| code.len() == 4 && code.starts_with(letter);
            assert!(codes.iter().all(|(code, _)| fits(code)));
        }
    }
}
