//! Numbers and times of expressions.

use super::*;

fn key(payload: &str) -> String {
    let message = message(payload);
    let expression = Expression::compile("msg").unwrap();
    expression.key(&mut Scope::new(&message, 2)).unwrap()
}

#[test]
fn a_number_is_copied_as_it_was_sent() {
    for number in [
        "117.63331139400017",
        "-0.0",
        "1e+300",
        "5e-324",
        "0.10000000000000001",
        "1e-400",
        "18446744073709551615",
        "18446744073709551617",
        "-9223372036854775809",
        "123456789012345678901234567891",
        "12345678901234567.89",
    ] {
        let payload = format!("{{\"x\":{number}}}");
        assert_eq!(text("msg.x", &payload).as_deref(), Ok(number));
        assert_eq!(text("msg", &payload), Ok(payload.clone()));
        // The language writes other doubles in its own way.
        if !number.contains('e') && number != "-0.0" {
            let digits = text("string(msg.x)", &payload);
            assert_eq!(digits, Ok(format!("\"{number}\"")));
        }
        assert_eq!(text("[msg.x][0]", &payload).as_deref(), Ok(number));
        assert_eq!(text("msg.x == msg.x", &payload).as_deref(), Ok("true"));
    }
    let number = "117.63331139400017";
    let same = text(&format!("msg == {number}"), number);
    assert_eq!(same.as_deref(), Ok("true"));
}

#[test]
fn equal_values_are_equal_keys() {
    for (a, b) in [
        ("1", "1.0"),
        ("-0.0", "0"),
        ("[1,{\"b\":2.0,\"a\":null}]", "[1.0,{\"a\":null,\"b\":2}]"),
        ("100000000000000000000", "1e20"),
    ] {
        assert_eq!(key(a), key(b), "{a} {b}");
    }
    for (a, b) in [
        ("1", "\"1\""),
        ("9007199254740993", "9007199254740992.0"),
        ("18446744073709551616", "18446744073709551617"),
        ("117.63331139400017", "117.63331139400016"),
    ] {
        assert_ne!(key(a), key(b), "{a} {b}");
    }
}

#[test]
fn integers_and_doubles_mix_and_are_compared_exactly() {
    let payload = r#"{"price":10.5,"whole":10.0,"int":10,"qty":3,"big":18446744073709551615,
        "huge":18446744073709551616,"odd":9007199254740993}"#;
    for (source, expected) in [
        ("msg.price * msg.qty", "31.5"),
        ("msg.whole * msg.qty", "30.0"),
        ("msg.int * msg.qty", "30"),
        ("msg.qty - msg.price", "-7.5"),
        ("msg.qty / 2", "1"),
        ("msg.qty / 2.0", "1.5"),
        ("msg.whole % msg.qty", "1.0"),
        ("-msg.price", "-10.5"),
        ("msg.big - 1", "18446744073709551614"),
        ("msg.big - msg.big + msg.qty", "3"),
        ("msg.odd == 9007199254740992.0", "false"),
        ("9007199254740992.0 == msg.odd", "false"),
        ("msg.odd > 9007199254740992.0", "true"),
        ("msg.odd in [9007199254740992.0]", "false"),
        ("[msg.odd] == [9007199254740992.0]", "false"),
        ("msg.huge == 18446744073709551616.0", "true"),
        ("msg.huge > msg.big && msg.big < msg.huge", "true"),
        ("msg.huge in [1, msg.huge]", "true"),
        (
            "{'a': [1]} == {'a': [1.0]} && 1 in [1.0] && 2.0 in {2: 'x'}",
            "true",
        ),
        ("[1, 2][1.0] == 2 && {1: 'x'}[1.0] == 'x'", "true"),
        ("1 != '1' && !(1 in ['1']) && null != 0", "true"),
        ("double(msg.int) + string(msg.price).size()", "14.0"),
    ] {
        assert_eq!(text(source, payload).as_deref(), Ok(expected), "{source}");
    }
    for (source, reason) in [
        ("msg.huge + 1", "an integer has more than 64 bits"),
        ("msg.big + 1", "overflows"),
        ("msg.int / 0", "division by zero"),
        ("msg.int + 'x'", "there is no + for int and string"),
        ("msg.price < 'x'", "there is no < for double and string"),
        ("msg.int in 3", "there is no in for int and int"),
        ("[1, 2][0.5]", "there is no [_] for double"),
        ("{1: 2}[[1]]", "there is no [_] for list"),
    ] {
        let failure = text(source, payload).unwrap_err();
        assert!(failure.text().contains(reason), "{source}: {failure}");
    }
}

#[test]
fn parts_of_a_timestamp_are_those_of_utc() {
    let parts = "[timestamp(msg).getFullYear(), timestamp(msg).getMonth(), \
                 timestamp(msg).getDate(), timestamp(msg).getDayOfWeek(), timestamp(msg).getHours()]";
    for spelling in [
        "\"2021-12-31T23:30:00-04:00\"",
        "\"2022-01-01T03:30:00Z\"",
        "\"2022-01-01T12:30:00+09:00\"",
    ] {
        assert_eq!(text(parts, spelling).as_deref(), Ok("[2022,0,1,6,3]"));
        let there = text("timestamp(msg).getHours('+01:00')", spelling);
        assert_eq!(there.as_deref(), Ok("4"));
    }
}

#[test]
fn a_value_that_could_not_be_read_again_is_refused() {
    let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
    assert_eq!(text("msg", &deep), Ok(deep.clone()));
    let failure = text("[msg]", &deep).unwrap_err();
    assert!(
        failure.text().contains("nested deeper than 127"),
        "{failure}"
    );
    assert!(
        text("msg.a / 0.0", r#"{"a":1}"#)
            .unwrap_err()
            .text()
            .contains("inf")
    );
}
