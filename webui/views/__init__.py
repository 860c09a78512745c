"""What the screens show, as plain values: run directories read again and again, whatever state they are in."""
