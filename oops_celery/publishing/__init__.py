"""In the application: publish reports, and turn failures into reports."""
