"""What a run writes down and shows: its folder, its log, its dashboard. Knows no tensor."""
