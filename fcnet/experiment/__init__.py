"""An experiment in its run folder: built from a configuration, trained, saved, resumed and finished."""
