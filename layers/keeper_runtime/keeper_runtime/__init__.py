"""What only the functions need: settings, AWS clients, alerts, change events, reporting."""
