"""Towns: where roads lie, how lanes join, who has right of way, which light is green."""
