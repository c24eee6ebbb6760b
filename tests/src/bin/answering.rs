//! A program with a service that answers requests of other programs.

use std::process::ExitCode;

use brickwork::prelude::*;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Wanted {
    sku: String,
    quantity: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Left {
    sku: String,
    left: u32,
    /// Id of the request.
    id: String,
}

const WANTED: Input<Wanted, Left> = Input::new("wanted");

struct Stock;

impl Service for Stock {
    const NAME: &'static str = "stock";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&WANTED);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Wanted, Left> for Stock {
    async fn handle(&mut self, wanted: Wanted, cx: &mut Context) -> Result<Left, Failure> {
        let left = 100u32.checked_sub(wanted.quantity);
        let left = left.ok_or_else(|| Failure::reject("not that many left"))?;
        let id = cx.message().map(|message| message.id.to_string());
        Ok(Left {
            sku: wanted.sku,
            left,
            id: id.unwrap_or_default(),
        })
    }
}

fn main() -> ExitCode {
    brickwork::cli::main(
        brickwork_actors::catalog().with::<Stock>(),
        brickwork_bridges::all(),
    )
}
