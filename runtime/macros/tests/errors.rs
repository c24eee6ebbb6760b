//! Mistakes in the use of the attributes: each is an error at the tokens of the user, with the text
//! to write instead. The expected errors stand beside the cases.
//!
//! Slow, because every case is compiled: the unit tests compare the texts alone.

#[test]
fn a_mistake_is_an_error_at_the_tokens_of_the_user() {
    if std::env::var_os("BRICKWORK_FULL").is_none() {
        eprintln!("takes long: run with BRICKWORK_FULL=1");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/errors/*.rs");
}
