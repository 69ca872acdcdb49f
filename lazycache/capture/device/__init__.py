"""From the device to the host: copies that nothing waits for."""
