//! The services under test: one that uses the whole service API, a source, and an app of both.

use std::time::{Duration, SystemTime};

use brickwork::prelude::*;
use brickwork::testing::Setup;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reserve {
    pub(crate) sku: String,
    pub(crate) quantity: u32,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reserved {
    pub(crate) sku: String,
    pub(crate) left: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) at_ms: u128,
    pub(crate) attempt: u32,
    pub(crate) instance: u32,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StockConfig {
    /// Items in stock at the start.
    pub(crate) left: u32,
    /// Seconds to wait before reserving.
    pub(crate) wait_seconds: u64,
    /// Seconds between reports; 0 for no reports.
    pub(crate) report_seconds: u64,
    /// Maximum price. If set, the service asks for the price and reserves nothing more expensive.
    pub(crate) price_max: Option<u32>,
}

pub(crate) const REQUESTS: Input<Reserve> = Input::new("requests");
pub(crate) const COUNTS: Input<String, u32> = Input::new("counts");
pub(crate) const RESERVED: Output<Reserved> = Output::new("reserved");
pub(crate) const REPORTS: Output<u32> = Output::new("reports");
pub(crate) const PRICES: Request<String, u32> = Request::new("prices");
pub(crate) const REPORT: Tick = Tick::new("report");

/// A service that uses the whole service API.
pub(crate) struct Stock {
    pub(crate) left: u32,
    pub(crate) wait: Duration,
    pub(crate) price_max: Option<u32>,
}

impl Service for Stock {
    const NAME: &'static str = "stock";
    type Config = StockConfig;

    fn ports(config: &StockConfig, ports: &mut Ports<Self>) {
        ports.input(&REQUESTS).input(&COUNTS).output(&RESERVED);
        if config.price_max.is_some() {
            ports.request(&PRICES);
        }
        if config.report_seconds > 0 {
            ports.output(&REPORTS);
            ports.tick(REPORT, Duration::from_secs(config.report_seconds));
        }
    }

    fn check(config: &StockConfig) -> Result<(), Vec<ConfigError>> {
        match config.left {
            0 => Err(vec![ConfigError::new("left", "there must be something")]),
            _ => Ok(()),
        }
    }

    async fn start(config: &StockConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self {
            left: config.left,
            wait: Duration::from_secs(config.wait_seconds),
            price_max: config.price_max,
        })
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        cx.emit(&REPORTS, self.left)
    }
}

impl Handle<Reserve> for Stock {
    async fn handle(&mut self, wanted: Reserve, cx: &mut Context) -> Result<(), Failure> {
        tokio::time::sleep(self.wait).await;
        if let Some(max) = self.price_max
            && cx.ask(&PRICES, wanted.sku.clone()).await? > max
        {
            return Err(Failure::reject("too dear"));
        }
        let left = self.left.checked_sub(wanted.quantity);
        self.left = left.ok_or_else(|| Failure::reject("not that many left"))?;
        let reserved = Reserved {
            sku: wanted.sku,
            left: self.left,
            at_ms: unix_ms(cx.now()),
            attempt: cx.attempt(),
            instance: cx.instance(),
        };
        cx.emit(&RESERVED, reserved)
    }
}

impl Handle<String, u32> for Stock {
    async fn handle(&mut self, _: String, _: &mut Context) -> Result<u32, Failure> {
        Ok(self.left)
    }
}

pub(crate) fn unix_ms(time: SystemTime) -> u128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_millis()
}

pub(crate) fn of_100() -> StockConfig {
    StockConfig {
        left: 100,
        ..StockConfig::default()
    }
}

pub(crate) fn reserve(quantity: u32) -> Reserve {
    Reserve {
        sku: "a".into(),
        quantity,
    }
}

/// A source that counts to the number in its config.
pub(crate) struct Count;

pub(crate) const NUMBERS: Output<u32> = Output::new("numbers");

#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct CountConfig {
    pub(crate) to: u32,
}

impl Source for Count {
    const NAME: &'static str = "count";
    type Config = CountConfig;

    fn ports(_: &CountConfig, ports: &mut SourcePorts) {
        ports.output(&NUMBERS);
    }

    fn ends(_: &CountConfig) -> bool {
        true
    }

    async fn run(config: &CountConfig, out: &mut SourceContext) -> Result<(), Failure> {
        for number in 1..=config.to {
            out.send(&NUMBERS, number).await?;
        }
        Ok(())
    }
}

pub(crate) const SHOP: &str = r#"
    [app]
    name = "shop"
    transport = "amqp://nobody-there"
    [services.stock]
    in.requests = "orders.placed"
    in.counts = "counts"
    out = "orders.reserved"
    config.left = 5
    [services.echo]
    use = "filter"
    in = "orders.reserved"
    out = "orders.small"
    config.when = "msg.left < ${LIMIT}"
    [topics]
    "orders.placed".external = "in"
    counts.external = "in"
    "orders.small".external = "out"
"#;

pub(crate) fn shop() -> Setup {
    let catalog = brickwork_actors::catalog().with::<Stock>();
    Setup::of_manifest(SHOP, catalog).variable("LIMIT", "3")
}
