"""Methods x seeds, trained and evaluated by the commands themselves, and compared: tables, intervals, pictures."""
