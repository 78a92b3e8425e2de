"""The config of a small site for `dr_channels`: 128 simulated cards, no ramps, an API on a port of its own."""

SITE = """
mode: control
currency: USD
interval: 5m
horizon: 6h
state_dir: state
sites:
  - {{id: lab, timezone: America/Los_Angeles, price: energy, limit_kw: 100, pue: {{base: 1.2}}, other_it_kw: 2}}
pools:
  - {{id: chat, site: lab, gpu_model: A100-400W, count: 64, work: interactive, curve: A100-400W/infer_llama_8b,
     value_per_gpu_h: 5, floor: 0.6, load: 0.95}}
  - {{id: train, site: lab, gpu_model: A100-400W, count: 64, work: training, curve: A100-400W/pt_mpt_7b_fast,
     value_per_gpu_h: 0.8, floor: 0.5}}
signals:
  - {{id: energy, type: constant, unit: USD/MWh, value: 60}}
power: {{type: simulated}}
meters: [{{type: simulated}}]
programs:
  - {{id: elrp, site: lab, channel: {channel}, baseline: {{type: declared, kw: 60}},
     ramp_in: 0s, ramp_out: 0s, rebound: 0s}}
  - {{id: hook, site: lab, channel: {{type: webhook, secret: "file:secret"}}, baseline: {{type: declared, kw: 60}}}}
api:
  port: {port}
  page: false
  tokens: [{{name: ops, scope: write, secret: "file:token"}}]
"""
