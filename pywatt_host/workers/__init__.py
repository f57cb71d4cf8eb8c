"""Worker processes under a supervisor that never imports the application, and reload without a lost request."""
