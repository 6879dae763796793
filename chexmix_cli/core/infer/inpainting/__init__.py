"""Hidden parts of films filled in: by the model, and by the classical fills it is compared with."""
