"""How the bundled mini models are made from nothing (`ip2p models build`), one file a model."""
