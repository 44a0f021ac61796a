"""Where pictures come from: a folder, a video file, or a camera's stream."""
