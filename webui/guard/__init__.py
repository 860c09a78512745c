"""What stands between the network and the pages: everything is refused that is not named here."""
