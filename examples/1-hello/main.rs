//! A typed service and a plain actix actor, connected by a manifest.

use std::process::ExitCode;

use actix::prelude::{Actor, Handler};
use brickwork::cli;
use brickwork::prelude::*;
use brickwork_actors::catalog;

/// A line of `names.jsonl`.
#[message]
struct Person {
    name: String,
}

/// The greeter's output. Also an actix message, so that a plain actor can receive it.
#[message]
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Greeting {
    text: String,
}

#[derive(Default)]
struct Greeter {
    greeted: u32,
}

/// Greets people by name and counts them.
///
/// A service knows only its ports, `people` and `greetings`; the manifest connects them to topics.
#[service]
impl Greeter {
    #[input]
    fn people(&mut self, person: Person, greetings: Out<Greeting>) -> Result {
        if person.name.is_empty() {
            return Err(Failure::reject("the name is empty"));
        }
        self.greeted += 1;
        let text = format!("Hello, {}! You are number {}.", person.name, self.greeted);
        greetings.emit(Greeting { text })
    }
}

/// A plain actix actor without any Brickwork code.
struct Printer;

impl Actor for Printer {
    type Context = actix::Context<Self>;
}

impl Handler<Greeting> for Printer {
    type Result = ();

    fn handle(&mut self, greeting: Greeting, _: &mut Self::Context) {
        println!("{}", greeting.text);
    }
}

fn main() -> ExitCode {
    let catalog = catalog()
        .with::<Greeter>()
        .with_actor::<Printer, Greeting>("printer", || Printer.start());
    cli::main(catalog, brickwork_bridges::all())
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;

    use super::*;

    #[test]
    fn each_greeting_has_the_name_and_a_running_number() {
        let greeter = TestApp::of::<Greeter>(NoConfig {});
        for (name, text) in [
            ("Ada", "Hello, Ada! You are number 1."),
            ("Grace", "Hello, Grace! You are number 2."),
        ] {
            greeter.send(&Greeter::PEOPLE, Person { name: name.into() });
            assert_eq!(greeter.expect(&Greeter::GREETINGS).text, text);
        }
    }

    #[test]
    fn an_empty_name_is_rejected() {
        let greeter = TestApp::of::<Greeter>(NoConfig {});
        greeter.send(&Greeter::PEOPLE, Person { name: "".into() });
        let letter = greeter.expect_dead_letter();
        assert_eq!(letter.dead_letter.error, "the name is empty");
        greeter.expect_nothing(&Greeter::GREETINGS);
    }
}
