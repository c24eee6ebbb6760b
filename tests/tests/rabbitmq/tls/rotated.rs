//! Passwords and rights that change while the app runs.

use super::*;

const NEXT: &str = "p:ss/w@rd two";
const NEXT_ENCODED: &str = "p%3Ass%2Fw%40rd%20two";

#[test]
fn a_password_in_a_file_is_read_again_for_the_next_connection() {
    let broker = Broker::shared();
    add_user(broker, "rotated", "/");
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::create_dir(folder.path().join("tls")).expect("a folder can be made");
    let admin = free_address();
    let secret = folder.path().join("tls/password");
    std::fs::write(&secret, format!("{PASSWORD_ENCODED}\n")).expect("it can be written");
    let url = format!(
        "amqp://rotated:${{file:tls/password}}@127.0.0.1:{}",
        broker.port()
    );
    app(folder.path(), "rotated", &url, Some(&admin.to_string()));
    let process = start(folder.path());
    let ready = |wanted: bool, part: &str| until_ready(admin, wanted, part);
    ready(true, "");
    let change = format!(
        "rabbit_auth_backend_internal:change_password(<<\"rotated\">>, <<\"{NEXT}\">>, <<\"test\">>)."
    );
    broker.ctl(&["eval", &change]);
    broker.ctl(&[
        "close_all_user_connections",
        "rotated",
        "a test closes them",
    ]);
    ready(false, "refused");
    std::fs::write(&secret, NEXT_ENCODED).expect("it can be written");
    ready(true, "");
    let api = http::get(admin, "/api/app").expect("it answers").body;
    for text in [api, process.stderr()] {
        for hidden in [PASSWORD, PASSWORD_ENCODED, NEXT, NEXT_ENCODED] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
    }
}
