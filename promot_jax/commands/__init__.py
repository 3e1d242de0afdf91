"""The commands of `promot`, one file each; nothing heavy is imported before one runs."""
