"""Lightning plug-ins, named in YAML as ``callbacks.<module>.<Class>``. Nothing in `medrag_lightning` imports them."""
