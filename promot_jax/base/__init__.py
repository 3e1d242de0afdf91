"""What every room stands on: trees, meshes, processes, files, errors, values of settings."""
