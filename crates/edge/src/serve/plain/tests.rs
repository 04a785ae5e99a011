mod answer;
mod chunks;
mod relay;
mod request;
mod same;
