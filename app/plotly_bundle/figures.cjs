// The part of plotly.js that the dashboard's figures are drawn with; scatter is in the core.
const Plotly = require("plotly.js/lib/core");

Plotly.register([require("plotly.js/lib/heatmap"), require("plotly.js/lib/bar")]);

module.exports = Plotly;
