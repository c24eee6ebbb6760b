//! A service that answers questions, some of them late, and one that asks it, for tests of
//! asks.

use std::time::Duration;

use brickwork::prelude::*;

/// A question.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// What is answered.
    pub n: u64,
    /// After how many milliseconds.
    pub ms: u64,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The question's number.
    pub n: u64,
}

const QUESTIONS: Input<Question, Answer> = Input::new("questions");

/// Says in its log that it was asked, and answers in its time.
pub struct Answerer;

impl Service for Answerer {
    const NAME: &'static str = "answerer";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&QUESTIONS);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Question, Answer> for Answerer {
    async fn handle(&mut self, question: Question, _: &mut Context) -> Result<Answer, Failure> {
        tracing::info!("asked {}", question.n);
        tokio::time::sleep(Duration::from_millis(question.ms)).await;
        Ok(Answer { n: question.n })
    }
}

/// What an [`Asker`] is to do.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Errand {
    /// What it asks for, and emits.
    pub n: u64,
    /// End the process when that is answered.
    pub abort: bool,
}

const ERRANDS: Input<Errand> = Input::new("in");
const ASK: Request<Question, Answer> = Request::new("ask");
const OUT: Output<Answer> = Output::new("out");

/// Asks before it does anything.
pub struct Asker;

impl Service for Asker {
    const NAME: &'static str = "asker";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&ERRANDS).request(&ASK).output(&OUT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Errand> for Asker {
    async fn handle(&mut self, errand: Errand, cx: &mut Context) -> Result<(), Failure> {
        let question = Question { n: errand.n, ms: 0 };
        let answer = cx.ask(&ASK, question).await?;
        if errand.abort {
            std::process::abort();
        }
        cx.emit(&OUT, answer)
    }
}
